use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::data::DataError;
use crate::model::ConfigError;

/// A recipe that no run can be made of.
#[derive(Debug, Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read recipe {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML, an unknown key, or a value of another type.
    #[error("{}:{line}:{column}: {message}\n  | {source_line}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong.
        message: String,
        /// The line itself.
        source_line: String,
    },
    /// An override is not `path=value`.
    #[error("--set {assignment}: write path.to.key=value, as in train.learning_rate=0.01")]
    OverrideSyntax {
        /// As it was given.
        assignment: String,
    },
    /// An override has an unknown path or a value of another type.
    #[error("--set {assignment}: {message}")]
    Override {
        /// As it was given.
        assignment: String,
        /// What is wrong.
        message: String,
    },
    /// A value that its type allows and the run does not.
    #[error("{key} is {found}, {expected}")]
    Value {
        /// Its place in the recipe.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A norm does not fit the convolutions before it.
    #[error("{key}: {reason}")]
    Norm {
        /// Its place in the recipe.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The detector cannot be built.
    #[error("model.{0}")]
    Model(#[from] ConfigError),
    /// The data cannot be prepared so.
    #[error("data: {0}")]
    Data(#[from] DataError),
}
