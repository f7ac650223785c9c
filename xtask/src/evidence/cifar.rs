//! ResNet-20 on CIFAR-10: norms against batch sizes, and against learning rates at batch 2.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::Options;
use super::table::{self, Cells, number, read_lines};
use crate::process::workspace_root;

/// Settings of every run: shortened epochs, so that no cell of the table stays empty.
const TRAIN_IMAGES: &str = "10000";
const EPOCHS: &str = "3";
/// Of the runs that compare rates.
const RATE_EPOCHS: &str = "1";
pub const NORMS: [&str; 6] = ["bn", "gn", "cbn", "cbn-published", "cbn-through-weight", "cbn-exact"];
pub const BATCHES: [&str; 5] = ["1", "2", "4", "8", "32"];
/// For a batch of 128. The example scales it with the batch.
const SCALED_RATE: &str = "0.1";
const RATES: [&str; 3] = ["0.05", SCALED_RATE, "0.2"];

/// The runs of one batch size, seed and rate: one for each norm.
#[derive(Clone, Copy, PartialEq)]
struct Round {
    batch: &'static str,
    seed: &'static str,
    rate: &'static str,
    epochs: &'static str,
}

impl Round {
    fn file(self, results: &Path, norm: &str) -> PathBuf {
        let Self { batch, seed, rate, epochs } = self;
        let special = if self.compares_rates() { format!("_lr{rate}_e{epochs}") } else { String::new() };
        results.join(format!("b{batch}_{norm}_s{seed}{special}.jsonl"))
    }

    fn compares_rates(self) -> bool {
        self.epochs == RATE_EPOCHS
    }
}

/// The most telling first.
fn rounds() -> impl Iterator<Item = Round> {
    let scaled =
        [["2", "0"], ["4", "0"], ["2", "1"], ["4", "1"], ["8", "0"], ["1", "0"], ["32", "0"], ["2", "2"], ["4", "2"]];
    scaled
        .into_iter()
        .map(|[batch, seed]| Round { batch, seed, rate: SCALED_RATE, epochs: EPOCHS })
        .chain(RATES.map(|rate| Round { batch: "2", seed: "0", rate, epochs: RATE_EPOCHS }))
}

pub fn results_folder() -> PathBuf {
    workspace_root().join("docs/results/cifar")
}

pub(super) fn run(options: &Options) -> Result<(), String> {
    if !options.data.join("test_batch.bin").exists() {
        let data = options.data.display();
        return Err(format!("{data} has no test_batch.bin: give the folder of CIFAR-10's binary files"));
    }
    let results = results_folder();
    fs::create_dir_all(&results).map_err(|error| format!("{}: {error}", results.display()))?;
    for round in rounds() {
        for norm in NORMS {
            let file = round.file(&results, norm);
            if file.exists() {
                continue;
            }
            if options.budget.is_over() {
                return print_tables(&results);
            }
            train(options, &file, norm, round)?;
        }
    }
    print_tables(&results)
}

/// One run; its file appears when it is complete.
fn train(options: &Options, file: &Path, norm: &str, round: Round) -> Result<(), String> {
    let partial = file.with_extension("partial");
    println!("xtask: {}", file.display());
    let mut arguments = vec![OsString::from(&options.data)];
    arguments.extend(["--norm", norm, "--train-images", TRAIN_IMAGES, "--epochs", round.epochs].map(OsString::from));
    arguments.extend(["--batch-size", round.batch, "--seed", round.seed, "--lr", round.rate].map(OsString::from));
    arguments.extend(["--out".into(), OsString::from(&partial)]);
    options.program.run(&arguments)?;
    fs::rename(&partial, file).map_err(|error| format!("{}: {error}", file.display()))
}

/// Test accuracy in percent after the last epoch: mean over the seeds, and their range.
fn print_tables(results: &Path) -> Result<(), String> {
    println!("\nAccuracy by batch size after {EPOCHS} epochs, rate {SCALED_RATE} x batch / 128:");
    table::print("batch", &BATCHES, &NORMS, &accuracy_by_batch(results)?);
    println!("\nAccuracy at batch 2 after {RATE_EPOCHS} epoch, by the rate for a batch of 128:");
    table::print("rate", &RATES, &NORMS, &accuracies(results, |round| round.compares_rates().then_some(round.rate))?);
    Ok(())
}

/// By batch size and norm, at the scaled rate.
pub fn accuracy_by_batch(results: &Path) -> Result<Cells<'static>, String> {
    accuracies(results, |round| (!round.compares_rates()).then_some(round.batch))
}

/// The runs of those rounds that have a row.
fn accuracies(results: &Path, row: impl Fn(Round) -> Option<&'static str>) -> Result<Cells<'static>, String> {
    let mut cells = Cells::new();
    for (round, row) in rounds().filter_map(|round| Some((round, row(round)?))) {
        for norm in NORMS {
            let file = round.file(results, norm);
            if let Some(line) = read_lines(&file)?.last() {
                cells.entry((row, norm)).or_default().push(100.0 * number(line, "test_accuracy", &file)?);
            }
        }
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_a_file_of_its_own() {
        let folder = Path::new("");
        let mut files: Vec<_> = rounds().flat_map(|round| NORMS.map(|norm| round.file(folder, norm))).collect();
        let num_runs = files.len();
        files.sort();
        files.dedup();
        assert_eq!((files.len(), num_runs), (72, 72));
    }
}
