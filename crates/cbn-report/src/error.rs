use std::path::PathBuf;

use cbn_detection::data::DataError;
use cbn_detection::eval::EvalError;
use thiserror::Error;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum ReportError {
    /// A file of the run could not be read.
    #[error("cannot read {}; is its directory the work directory of a training?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the run says something else than expected.
    #[error("{}, line {line}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The validation data cannot be read.
    #[error(
        "the run's validation data: {0}; if it lies elsewhere now, say where with --val-annotations and --val-images"
    )]
    Data(#[from] DataError),
    /// The detections cannot be scored.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// No run was given.
    #[error("a report needs at least one run")]
    NoRuns,
    /// The page could not be put together.
    #[error("cannot fill the report's template: {0}")]
    Template(#[from] askama::Error),
}
