//! Curves for TensorBoard.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use syntaxdot_summary::SummaryWriter;

use super::{Event, LogError, Observer, Record};

/// Writes every number of the log as a scalar of TensorBoard, its step being the iteration.
///
/// The names are the log's, with a slash between the levels: `iteration/losses/rpn_box`, `evaluation/metrics/bbox/AP`. Numbers that are not
/// there (`null`) have no point. A resumed run begins a file of its own beside the first one, as TensorBoard's writers do.
pub struct TensorBoard {
    path: PathBuf,
    /// Unbuffered, so that a killed run has lost nothing.
    writer: SummaryWriter<File>,
}

impl TensorBoard {
    /// Begins an event file in the directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn create(directory: &Path) -> Result<Self, LogError> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The process id keeps two runs apart that begin within a second.
        let name = format!("events.out.tfevents.{}.{}", since_1970.as_secs(), std::process::id());
        let path = directory.join(name);
        let open = || -> io::Result<SummaryWriter<File>> {
            fs::create_dir_all(directory)?;
            SummaryWriter::new(File::options().create(true).append(true).open(&path)?)
        };
        let writer = open().map_err(|source| LogError { path: path.clone(), source })?;
        Ok(Self { path, writer })
    }

    fn write(&mut self, tag: &str, iteration: i64, value: &Value) -> io::Result<()> {
        match value {
            Value::Number(number) => {
                self.writer.write_scalar(tag, iteration, number.as_f64().unwrap_or(f64::NAN) as f32)
            }
            Value::Object(entries) => entries
                .iter()
                .filter(|(name, _)| *name != "event" && *name != "iteration")
                .try_for_each(|(name, value)| self.write(&format!("{tag}/{name}"), iteration, value)),
            _ => Ok(()),
        }
    }
}

impl Observer for TensorBoard {
    fn observe(&mut self, event: &Event<'_>) -> Result<(), LogError> {
        let (tag, iteration, values) = match event {
            Event::Logged(Record::Iteration(record)) => ("iteration", record.iteration, serde_json::to_value(record)),
            Event::Logged(Record::Evaluation(record)) => ("evaluation", record.iteration, serde_json::to_value(record)),
            _ => return Ok(()),
        };
        let values = values.expect("records have string keys only");
        self.write(tag, iteration as i64, &values).map_err(|source| LogError { path: self.path.clone(), source })
    }
}
