use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::{CheckpointError, LogError};
use crate::data::DataError;
use crate::eval::EvalError;

/// Why a training run stopped before its end. The last checkpoint of its work directory is whole.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A batch could not be made.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The detector could not be evaluated.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A checkpoint could not be written or taken.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log could not be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file of the work directory could not be written.
    #[error("cannot write {}", path.display())]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The run diverged.
    #[error(
        "iteration {iteration}: {loss} is {value}: training has diverged; lower train.learning_rate or set train.clip_norm"
    )]
    NonFiniteLoss {
        /// Counted from 1.
        iteration: usize,
        /// Which loss.
        loss: &'static str,
        /// What it became.
        value: f64,
    },
    /// The run diverged.
    #[error("iteration {iteration}: the gradient's norm is {value}: training has diverged; lower train.learning_rate")]
    NonFiniteGradient {
        /// Counted from 1.
        iteration: usize,
        /// What it became.
        value: f64,
    },
    /// The schedule was made for another data set.
    #[error("the run was planned for {planned} iterations an epoch, the loader yields {found}")]
    EpochLength {
        /// Of the configuration.
        planned: usize,
        /// Of the loader.
        found: usize,
    },
    /// The work directory cannot be used.
    #[error("cannot write to work directory {}", path.display())]
    WorkDir {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The work directory holds another run.
    #[error("work directory {} holds checkpoints already: continue them with --resume, or name another one with --work-dir", path.display())]
    WorkDirInUse {
        /// Which one.
        path: PathBuf,
    },
    /// There is nothing to resume.
    #[error("work directory {} has no checkpoint to resume from", path.display())]
    NothingToResume {
        /// Which one.
        path: PathBuf,
    },
    /// A run can only be continued as it was begun.
    #[error("checkpoint {} was written under another plan: {key} is {found} there and {expected} now", path.display())]
    OtherPlan {
        /// The checkpoint.
        path: PathBuf,
        /// The first entry that differs.
        key: String,
        /// What the checkpoint says.
        found: String,
        /// What this run says.
        expected: String,
    },
}
