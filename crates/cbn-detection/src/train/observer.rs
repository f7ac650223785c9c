//! Who is told what happens in a run.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::Record;
use crate::eval::CocoDetection;

/// What the loop tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something that belongs into a log.
    Logged(&'a Record),
    /// Images of the running evaluation that are done.
    Evaluating {
        /// So far.
        num_done: usize,
        /// Of so many.
        num_images: usize,
    },
    /// What the evaluation found that the next [`Record::Evaluation`] scores.
    Detected {
        /// Finished iterations.
        iteration: usize,
        /// Of all images.
        detections: &'a [CocoDetection],
    },
}

/// Takes the events of a run: a log, a progress bar, a writer of curves.
pub trait Observer {
    /// Takes one event; the loop waits meanwhile.
    ///
    /// # Errors
    ///
    /// What was to be written cannot be written. The run ends, its last checkpoint is whole.
    fn observe(&mut self, event: &Event<'_>) -> Result<(), LogError>;
}

/// Each is told in its turn.
impl Observer for &mut [&mut dyn Observer] {
    fn observe(&mut self, event: &Event<'_>) -> Result<(), LogError> {
        self.iter_mut().try_for_each(|observer| observer.observe(event))
    }
}

/// Nobody listens.
impl Observer for () {
    fn observe(&mut self, _event: &Event<'_>) -> Result<(), LogError> {
        Ok(())
    }
}

/// A log cannot be written.
#[derive(Debug, Error)]
#[error("cannot write log {}", path.display())]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}
