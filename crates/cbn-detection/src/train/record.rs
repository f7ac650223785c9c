//! What happens in a run, in a form that outlives it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

/// Something worth a line of the log.
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
    /// A checkpoint that the run could not go on from.
    SkippedCheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint was written by another number of processes: norms that look at one process's maps go on with the first one's statistics.
    OtherProcesses {
        /// How many wrote it.
        written_by: usize,
        /// How many go on.
        resumed_by: usize,
    },
    /// An iteration ended.
    Iteration(IterationRecord),
    /// An image could not be used; another one of the epoch took its place.
    BadImage {
        /// What is wrong with which file.
        reason: String,
        /// Bad images so far, this one included.
        num_bad: usize,
        /// How many the run bears.
        limit: usize,
    },
    /// The detector was evaluated.
    Evaluation(EvaluationRecord),
    /// A checkpoint was written.
    Checkpoint {
        /// Finished iterations.
        iteration: usize,
        /// The file.
        path: PathBuf,
        /// How long the run waited for it: from weights to a file that is on the disk, and the removal of old ones.
        elapsed_s: f64,
    },
    /// The run was asked to stop before its end, and has saved.
    Stopped {
        /// Finished iterations.
        iteration: usize,
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
    /// Percentage of the sampled rois that the box head classified right, background included.
    pub class_accuracy: f64,
    /// L2 norm over all gradients, before clipping.
    pub gradient_norm: f64,
    /// Of the whole iteration.
    pub elapsed_s: f64,
    /// Of it, how long the loop waited for its images.
    pub data_s: f64,
    /// Of it, from images to losses.
    pub forward_s: f64,
    /// Of it, from losses to gradients and their norm.
    pub backward_s: f64,
    /// Of it, from gradients to weights.
    pub optimizer_s: f64,
    /// Of it, in exchanging values with other processes, waiting for them included; 0 where there is none.
    pub exchange_s: f64,
    /// What telling others took since the record before (log, curves, progress); no part of `elapsed_s`.
    pub log_s: f64,
    /// Images of this iteration, of all processes, over its `elapsed_s`.
    pub images_per_s: f64,
    /// What the rest of the iterations takes at the pace of this process so far, evaluations and checkpoints included.
    pub eta_s: f64,
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
    /// Whether it is the best of the run so far.
    pub is_best: bool,
    /// How long it took.
    pub elapsed_s: f64,
}
