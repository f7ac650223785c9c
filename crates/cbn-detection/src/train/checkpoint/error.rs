use std::io;
use std::path::PathBuf;

use safetensors::SafeTensorError;
use thiserror::Error;

use crate::model::weights::StateMismatch;

/// A checkpoint that could not be written or taken.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The disk refused.
    #[error(
        "cannot write checkpoint {}; checkpoints before it are untouched: make room, then go on with --resume",
        path.display()
    )]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk refused.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a whole safetensors file.
    #[error("{} is cut off or not a safetensors file; take an earlier checkpoint", path.display())]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What the reader met.
        source: SafeTensorError,
    },
    /// A bit has changed since it was written.
    #[error("{} is not what was written: its content does not match its hash; take an earlier checkpoint", path.display())]
    Altered {
        /// Which one.
        path: PathBuf,
    },
    /// A safetensors file of someone else.
    #[error("{} is a safetensors file but not a checkpoint of cbn: its metadata has no valid \"cbn\" entry", path.display())]
    NotACheckpoint {
        /// Which one.
        path: PathBuf,
    },
    /// Written by another version of this program.
    #[error("checkpoint {} has format {found}, this version reads format {expected}", path.display())]
    Version {
        /// Which one.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// The detector is built differently.
    #[error("checkpoint {} is of another architecture: {mismatch}", path.display())]
    OtherArchitecture {
        /// Which one.
        path: PathBuf,
        /// The differences.
        mismatch: StateMismatch,
    },
    /// The optimizer's state belongs to other parameters.
    #[error("checkpoint {} has velocities of {} parameters that the model does not train, first {}", path.display(), names.len(), names[0])]
    ForeignVelocities {
        /// Which one.
        path: PathBuf,
        /// Their names, at least one.
        names: Vec<String>,
    },
    /// The list of tensors exceeds what the format allows.
    #[error("the format of checkpoints cannot hold this model: {0}")]
    TooLarge(SafeTensorError),
    /// A tensor that is neither float nor integer.
    #[error("tensor {name} has element type {found}, which checkpoints do not hold")]
    ElementType {
        /// Which one.
        name: String,
        /// Its type.
        found: String,
    },
}
