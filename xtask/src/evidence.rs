//! Trainings that compare norms, one result file a run: a table can be stopped at any time and taken up again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::workspace_root;

const USAGE: &str = "usage: cargo xtask evidence cifar DATA [--minutes M]

Trains ResNet-20 on CIFAR-10 (DATA: the folder with data_batch_1.bin ..) once for every norm, batch size and seed of the table, keeps a
file for each run in docs/results/cifar/, and prints the table. Runs that have a file are not repeated. After M minutes no
further run is started.";

/// Settings of every run: shortened epochs, so that no cell of the table stays empty.
const TRAIN_IMAGES: &str = "10000";
const EPOCHS: u64 = 3;
const NORMS: [&str; 6] = ["bn", "gn", "cbn", "cbn-published", "cbn-through-weight", "cbn-exact"];
/// Batch size and seed, the most telling first.
const ROUNDS: [[u64; 2]; 9] = [[2, 0], [4, 0], [2, 1], [4, 1], [8, 0], [1, 0], [32, 0], [2, 2], [4, 2]];

pub fn run(arguments: &[String]) -> ExitCode {
    let Some((data, limit)) = parse(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if !data.join("test_batch.bin").exists() {
        eprintln!("xtask: {} has no test_batch.bin: give the folder of CIFAR-10's binary files", data.display());
        return ExitCode::from(2);
    }
    let results = workspace_root().join("docs/results/cifar");
    match train_all(&data, &results, limit).and_then(|()| print_table(&results)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<(PathBuf, Option<Duration>)> {
    let minutes = |text: &str| text.parse().ok().map(|minutes: u64| Duration::from_secs(60 * minutes));
    match arguments {
        [table, data] if table == "cifar" => Some((data.into(), None)),
        [table, data, flag, limit] if table == "cifar" && flag == "--minutes" => {
            Some((data.into(), Some(minutes(limit)?)))
        }
        _ => None,
    }
}

fn train_all(data: &Path, results: &Path, limit: Option<Duration>) -> Result<(), String> {
    fs::create_dir_all(results).map_err(|error| format!("{}: {error}", results.display()))?;
    let began = Instant::now();
    for [batch, seed] in ROUNDS {
        for norm in NORMS {
            let file = results.join(format!("b{batch}_{norm}_s{seed}.jsonl"));
            if file.exists() {
                continue;
            }
            if limit.is_some_and(|limit| began.elapsed() > limit) {
                println!("xtask: the time is over; the same command goes on");
                return Ok(());
            }
            train(data, &file, norm, [batch, seed])?;
        }
    }
    Ok(())
}

/// One run; its file appears when it is complete.
fn train(data: &Path, file: &Path, norm: &str, [batch, seed]: [u64; 2]) -> Result<(), String> {
    let partial = file.with_extension("partial");
    println!("xtask: {}", file.display());
    let status = Command::new("cargo")
        .args(["run", "--release", "--quiet", "--example", "cifar10", "--"])
        .arg(data)
        .args(["--norm", norm, "--train-images", TRAIN_IMAGES])
        .args(["--batch-size", &batch.to_string(), "--seed", &seed.to_string(), "--epochs", &EPOCHS.to_string()])
        .arg("--out")
        .arg(&partial)
        .current_dir(workspace_root())
        .status()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !status.success() {
        return Err(format!("the run of {} failed", file.display()));
    }
    fs::rename(&partial, file).map_err(|error| format!("{}: {error}", file.display()))
}

/// Test accuracy after the last epoch, a row for each batch size: mean over the seeds, and their range.
fn print_table(results: &Path) -> Result<(), String> {
    let mut cells: BTreeMap<(u64, &str), Vec<f64>> = BTreeMap::new();
    for [batch, seed] in ROUNDS {
        for norm in NORMS {
            let file = results.join(format!("b{batch}_{norm}_s{seed}.jsonl"));
            if let Some(accuracy) = last_accuracy(&file)? {
                cells.entry((batch, norm)).or_default().push(100.0 * accuracy);
            }
        }
    }
    println!("\n| batch | {} |\n| ---: |{}", NORMS.join(" | "), " ---: |".repeat(NORMS.len()));
    for batch in [1, 2, 4, 8, 32] {
        let row = NORMS.map(|norm| cells.get(&(batch, norm)).map_or_else(|| "-".to_owned(), |runs| describe(runs)));
        println!("| {batch} | {} |", row.join(" | "));
    }
    Ok(())
}

fn last_accuracy(file: &Path) -> Result<Option<f64>, String> {
    if !file.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let line: Value = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    match line["test_accuracy"].as_f64() {
        Some(accuracy) => Ok(Some(accuracy)),
        None => Err(format!("{}: the last line has no test_accuracy; delete the file to train again", file.display())),
    }
}

fn describe(runs: &[f64]) -> String {
    let mean = runs.iter().sum::<f64>() / runs.len() as f64;
    let [low, high] = [f64::min, f64::max].map(|pick| runs.iter().copied().reduce(pick).unwrap_or(mean));
    if runs.len() == 1 { format!("{mean:.1}") } else { format!("{mean:.1} ({low:.1} to {high:.1}, {})", runs.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_show_mean_range_and_number() {
        assert_eq!(describe(&[50.0]), "50.0");
        assert_eq!(describe(&[50.0, 53.0, 50.0]), "51.0 (50.0 to 53.0, 3)");
    }

    #[test]
    fn a_result_file_without_a_result_is_an_error() {
        let folder = std::env::temp_dir().join(format!("cbn-evidence-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let file = folder.join("run.jsonl");
        assert_eq!(last_accuracy(&file), Ok(None));
        fs::write(&file, "{\"test_accuracy\": 0.1}\n{\"test_accuracy\": 0.25}\n").expect("it can be written");
        assert_eq!(last_accuracy(&file), Ok(Some(0.25)));
        fs::write(&file, "").expect("it can be written");
        assert!(last_accuracy(&file).is_err());
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
