//! What logging, progress and checkpoints cost a training: the share of its time that is no training.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

use crate::options::for_each;
use crate::process::{built_cbn, workspace_root};

const USAGE: &str = "usage: cargo xtask overhead [--data DIR] [--iterations 60] [--checkpoint-every 15] [--dir target/overhead] [--program CBN]

Trains recipes/nuclei_mask_rcnn_r18_cbn.toml as a user does (log, curves, progress, checkpoints) and adds up what its log says of its own time.
--data is a COCO-format folder; --checkpoint-every is in iterations; --program takes a built cbn instead of building it. Exit code 1 if what is
told takes more than 2 % of a training with the recipe's own interval between checkpoints.";

/// What it may take.
const LIMIT_PERCENT: f64 = 2.0;

struct Options {
    data: PathBuf,
    iterations: usize,
    checkpoint_every: usize,
    dir: PathBuf,
    program: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            data: workspace_root().join("../shared/data/nuclei_dsb2018"),
            iterations: 60,
            checkpoint_every: 15,
            dir: "target/overhead".into(),
            program: None,
        };
        for_each(arguments, USAGE, |given| {
            match given.name {
                "--data" => options.data = given.path(),
                "--iterations" => options.iterations = given.number()?,
                "--checkpoint-every" => options.checkpoint_every = given.number()?,
                "--dir" => options.dir = given.path(),
                "--program" => options.program = Some(given.path()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(options)
    }
}

pub fn run(arguments: &[String]) -> ExitCode {
    let measured = Options::parse(arguments).and_then(|options| train(&options)).and_then(|log| Costs::of(&log));
    match measured {
        Ok(costs) => {
            let percent = costs.print();
            if percent <= LIMIT_PERCENT { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the training; its log.
fn train(options: &Options) -> Result<String, String> {
    let program = options.program.clone().map_or_else(built_cbn, Ok)?;
    let failed = |error: std::io::Error| format!("cannot write to {}: {error}", options.dir.display());
    fs::create_dir_all(&options.dir).map_err(failed)?;
    let work_dir = options.dir.join("run");
    if work_dir.exists() {
        fs::remove_dir_all(&work_dir).map_err(failed)?;
    }
    // Progress on no terminal: a plain line now and then.
    let progress = File::create(options.dir.join("stderr.txt")).map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("train").arg(workspace_root().join("recipes/nuclei_mask_rcnn_r18_cbn.toml"));
    command.arg("--data").arg(&options.data).arg("--work-dir").arg(&work_dir);
    command.args(["--max-iterations", &options.iterations.to_string()]);
    command.args(["--checkpoint-every", &format!("{}it", options.checkpoint_every)]);
    // The run ends with an evaluation, which nobody times here.
    command.args(["--set", "train.evaluate_images=1"]);
    let status = command.stdout(Stdio::null()).stderr(progress).status();
    match status {
        Ok(status) if status.success() => read(&work_dir.join("log.jsonl")),
        Ok(status) => Err(format!("the training ended with {status}: see {}/stderr.txt", options.dir.display())),
        Err(error) => Err(format!("cannot start the training: {error}")),
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Seconds.
#[derive(Debug, Default, PartialEq)]
struct Costs {
    num_iterations: usize,
    iterations_s: f64,
    log_s: f64,
    checkpoints_s: Vec<f64>,
    iterations_per_epoch: usize,
}

impl Costs {
    fn of(log: &str) -> Result<Self, String> {
        let mut costs = Self::default();
        for line in log.lines() {
            let record: Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
            let number = |key: &str| record[key].as_f64().ok_or(format!("{line}: no {key}"));
            match record["event"].as_str() {
                Some("start") => costs.iterations_per_epoch = number("iterations_per_epoch")? as usize,
                Some("iteration") => {
                    costs.num_iterations += 1;
                    costs.iterations_s += number("elapsed_s")?;
                    costs.log_s += number("log_s")?;
                }
                Some("checkpoint") => costs.checkpoints_s.push(number("elapsed_s")?),
                _ => {}
            }
        }
        if costs.num_iterations == 0 || costs.checkpoints_s.is_empty() {
            return Err("the training has not come to a checkpoint".to_owned());
        }
        Ok(costs)
    }

    /// Prints the table; the share of a training that saves once per epoch, in percent.
    fn print(&self) -> f64 {
        let step_s = self.iterations_s / self.num_iterations as f64;
        let log_s = self.log_s / self.num_iterations as f64;
        let num_checkpoints = self.checkpoints_s.len();
        let checkpoint_s = self.checkpoints_s.iter().sum::<f64>() / num_checkpoints as f64;
        let longest_s = self.checkpoints_s.iter().copied().fold(0.0, f64::max);
        let percent = |every: f64| {
            let told_s = log_s + checkpoint_s / every;
            100.0 * told_s / (step_s + told_s)
        };
        println!("| | |\n| --- | ---: |");
        println!("| an iteration | {:.1} ms |", 1e3 * step_s);
        println!(
            "| log, curves and progress of an iteration | {:.3} ms, {:.3} % |",
            1e3 * log_s,
            100.0 * log_s / step_s
        );
        println!(
            "| a checkpoint, mean of {num_checkpoints} | {:.0} ms (longest {:.0}) |",
            1e3 * checkpoint_s,
            1e3 * longest_s
        );
        let per_epoch = self.iterations_per_epoch as f64;
        println!("| all of it, a checkpoint per epoch ({per_epoch} iterations) | {:.2} % |", percent(per_epoch));
        let every = (checkpoint_s / (LIMIT_PERCENT / 100.0 * step_s)).ceil();
        println!("| checkpoints that take {LIMIT_PERCENT} % | one in {every} iterations |");
        percent(per_epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_added_up() {
        let log = concat!(
            "{\"event\":\"start\",\"iterations_per_epoch\":10}\n",
            "{\"event\":\"iteration\",\"elapsed_s\":0.5,\"log_s\":0.25}\n",
            "{\"event\":\"iteration\",\"elapsed_s\":1.5,\"log_s\":0.0}\n",
            "{\"event\":\"checkpoint\",\"elapsed_s\":2.5}\n",
            "{\"event\":\"evaluation\",\"elapsed_s\":9.0}\n",
        );
        let costs = Costs::of(log).unwrap();
        let expected = Costs {
            num_iterations: 2,
            iterations_s: 2.0,
            log_s: 0.25,
            checkpoints_s: vec![2.5],
            iterations_per_epoch: 10,
        };
        assert_eq!(costs, expected);
        // 0.125 s of log and 0.25 s of checkpoint on top of a second.
        assert!((costs.print() - 100.0 * 0.375 / 1.375).abs() < 1e-9);
        assert!(Costs::of("{\"event\":\"start\",\"iterations_per_epoch\":10}\n").is_err());
    }
}
