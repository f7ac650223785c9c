use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{CheckpointError, LogError, StepError, UnknownModules};
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
    /// A validation image could not be used.
    #[error(
        "evaluation after iteration {iteration}: a validation image cannot be used. --max-bad-images bears training images only, because a \
         score without this image would be another number. The iteration is saved: mend the image or take it out of the annotations \
         (\"cbn data check\" lists all such), then go on with --resume"
    )]
    Validation {
        /// Finished iterations.
        iteration: usize,
        /// Which image, and what is wrong with it.
        source: DataError,
    },
    /// A checkpoint could not be written or taken.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What is to be frozen is not there.
    #[error(transparent)]
    Freeze(#[from] UnknownModules),
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
        "iteration {iteration}: {source}, on {}: training has diverged; lower train.learning_rate or set train.clip_norm; {}",
        images.join(", "),
        last_checkpoint(checkpoint.as_deref())
    )]
    Diverged {
        /// Counted from 1.
        iteration: usize,
        /// What became of which number.
        source: StepError,
        /// Files of the step's images.
        images: Vec<String>,
        /// The last one that was written, from before.
        checkpoint: Option<PathBuf>,
    },
    /// Another process of the run failed.
    #[error("rank {rank}: {reason}")]
    Peer {
        /// Which one.
        rank: usize,
        /// What it said.
        reason: String,
    },
    /// Processes that should compute the same do not.
    #[error(
        "iteration {iteration}: rank {rank} has other weights than rank 0: take up the last checkpoint, and run all processes on machines of one kind"
    )]
    WeightsDiffer {
        /// Finished iterations.
        iteration: usize,
        /// The first one that differs.
        rank: usize,
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
    /// Another process writes to the work directory.
    #[error("another process trains in work directory {}: wait for it, or name another one with --work-dir", path.display())]
    WorkDirLocked {
        /// Which one.
        path: PathBuf,
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
    /// None of the checkpoints is whole.
    #[error("none of the checkpoints in work directory {} can be used: {}", path.display(), reasons.join("; "))]
    NoIntactCheckpoint {
        /// The work directory.
        path: PathBuf,
        /// What is wrong with each.
        reasons: Vec<String>,
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

fn last_checkpoint(path: Option<&Path>) -> String {
    match path {
        Some(path) => format!("{} is from before", path.display()),
        None => "no checkpoint was written before".to_owned(),
    }
}
