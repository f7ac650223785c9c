//! The run's log: one JSON object per line.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

/// One line of the log.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Record {
    /// Training begins, or goes on after this many iterations.
    Start {
        /// Finished iterations.
        iteration: usize,
        /// Iterations of the whole run.
        num_iterations: usize,
        /// Iterations of one epoch.
        iterations_per_epoch: usize,
        /// Of everything random.
        seed: u64,
    },
    /// An iteration ended.
    Iteration(IterationRecord),
    /// The detector was evaluated.
    Evaluation(EvaluationRecord),
    /// A checkpoint was written.
    Checkpoint {
        /// Finished iterations.
        iteration: usize,
        /// The file.
        path: PathBuf,
    },
}

/// What happened in an iteration.
#[derive(Clone, Debug, Serialize)]
pub struct IterationRecord {
    /// Finished iterations, this one included.
    pub iteration: usize,
    /// Counted from 0.
    pub epoch: usize,
    /// The rate that this iteration's step used.
    pub learning_rate: f64,
    /// Their sum was minimised.
    pub losses: BTreeMap<&'static str, f64>,
    /// The sum.
    pub loss: f64,
    /// L2 norm over all gradients, before clipping.
    pub gradient_norm: f64,
    /// Of the whole iteration.
    pub elapsed_s: f64,
    /// Of it, how long the loop waited for its batch.
    pub data_s: f64,
    /// The largest resident set of the process so far, where the system tells.
    pub peak_memory_mib: Option<u64>,
}

/// What an evaluation found.
#[derive(Clone, Debug, Serialize)]
pub struct EvaluationRecord {
    /// Finished iterations.
    pub iteration: usize,
    /// Finished epochs.
    pub epoch: usize,
    /// For `bbox` and `segm`, COCO's twelve numbers by name; null where there is nothing to measure.
    pub metrics: BTreeMap<String, BTreeMap<String, Option<f64>>>,
    /// How long it took.
    pub elapsed_s: f64,
}

/// The log file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the file and appends to what it holds.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|source| LogError { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes one line at once, so that a killed run has lost none.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<(), LogError> {
        let mut line = serde_json::to_string(record).expect("records have string keys only");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|source| LogError { path: self.path.clone(), source })
    }
}

/// The log cannot be written.
#[derive(Debug, Error)]
#[error("cannot write log {}", path.display())]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The largest resident set of this process so far, on Linux.
pub fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
