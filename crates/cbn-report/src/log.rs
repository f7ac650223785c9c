//! The log of a run, read leniently: what an older or newer version did not write is not drawn.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::ReportError;

/// What happened in an iteration, as far as the log tells.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Iteration {
    pub(crate) iteration: usize,
    pub(crate) learning_rate: Option<f64>,
    #[serde(default)]
    pub(crate) losses: BTreeMap<String, Option<f64>>,
    pub(crate) loss: Option<f64>,
    pub(crate) class_accuracy: Option<f64>,
    pub(crate) gradient_norm: Option<f64>,
    pub(crate) elapsed_s: Option<f64>,
    pub(crate) data_s: Option<f64>,
    pub(crate) forward_s: Option<f64>,
    pub(crate) backward_s: Option<f64>,
    pub(crate) optimizer_s: Option<f64>,
    pub(crate) log_s: Option<f64>,
    pub(crate) images_per_s: Option<f64>,
    pub(crate) peak_memory_mib: Option<f64>,
}

/// What an evaluation found.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Evaluation {
    pub(crate) iteration: usize,
    /// By kind of overlap and name.
    pub(crate) metrics: BTreeMap<String, BTreeMap<String, Option<f64>>>,
    pub(crate) elapsed_s: Option<f64>,
}

/// A checkpoint that was written.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Saved {
    pub(crate) iteration: usize,
    pub(crate) elapsed_s: Option<f64>,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Start {
        iteration: usize,
        num_iterations: Option<usize>,
        iterations_per_epoch: Option<usize>,
    },
    Iteration(Iteration),
    Evaluation(Evaluation),
    Checkpoint(Saved),
    #[serde(other)]
    Other,
}

/// A run's history: of iterations that were lost and done again, the last try.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunLog {
    pub(crate) iterations: Vec<Iteration>,
    pub(crate) evaluations: Vec<Evaluation>,
    pub(crate) checkpoints: Vec<Saved>,
    /// Finished iterations when the run was taken up again.
    pub(crate) resumed_at: Vec<usize>,
    pub(crate) num_iterations: Option<usize>,
    pub(crate) iterations_per_epoch: Option<usize>,
}

impl RunLog {
    pub(crate) fn read(path: &Path) -> Result<Self, ReportError> {
        let bytes = std::fs::read(path).map_err(|source| ReportError::Read { path: path.to_owned(), source })?;
        let text = String::from_utf8_lossy(&bytes);
        let mut log = Self::default();
        let mut num_starts = 0;
        let num_lines = text.lines().count();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(line) => {
                    num_starts += usize::from(matches!(line, Line::Start { .. }));
                    log.take(line, num_starts);
                }
                // A killed run may have left half a line.
                Err(_) if at + 1 == num_lines && !text.ends_with('\n') => {}
                Err(error) => {
                    return Err(ReportError::Format { path: path.to_owned(), line: at + 1, reason: error.to_string() });
                }
            }
        }
        Ok(log)
    }

    fn take(&mut self, line: Line, num_starts: usize) {
        match line {
            Line::Start { iteration, num_iterations, iterations_per_epoch } => {
                self.iterations.retain(|record| record.iteration <= iteration);
                self.evaluations.retain(|record| record.iteration <= iteration);
                self.checkpoints.retain(|record| record.iteration <= iteration);
                if num_starts > 1 {
                    self.resumed_at.push(iteration);
                }
                self.num_iterations = num_iterations.or(self.num_iterations);
                self.iterations_per_epoch = iterations_per_epoch.or(self.iterations_per_epoch);
            }
            Line::Iteration(record) => self.iterations.push(record),
            Line::Evaluation(record) => {
                // A run that was stopped during its last evaluation repeats it.
                self.evaluations.retain(|before| before.iteration != record.iteration);
                self.evaluations.push(record);
            }
            Line::Checkpoint(record) => self.checkpoints.push(record),
            Line::Other => {}
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.iterations.last().map(|record| record.iteration) >= self.num_iterations && self.num_iterations.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RunLog, ReportError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        std::fs::write(&path, text).unwrap();
        RunLog::read(&path)
    }

    #[test]
    fn iterations_done_again_count_once_and_half_a_line_is_no_fault() {
        let log = read(concat!(
            r#"{"event":"start","iteration":0,"num_iterations":4,"iterations_per_epoch":2,"seed":0}"#,
            "\n",
            r#"{"event":"iteration","iteration":1,"loss":3.0}"#,
            "\n",
            r#"{"event":"iteration","iteration":2,"loss":2.0}"#,
            "\n",
            r#"{"event":"something_new","x":1}"#,
            "\n",
            r#"{"event":"start","iteration":1,"num_iterations":4,"iterations_per_epoch":2,"seed":0}"#,
            "\n",
            r#"{"event":"iteration","iteration":2,"loss":null,"from_the_future":[1]}"#,
            "\n",
            r#"{"event":"iter"#,
        ))
        .unwrap();
        let losses: Vec<(usize, Option<f64>)> =
            log.iterations.iter().map(|record| (record.iteration, record.loss)).collect();
        assert_eq!(losses, [(1, Some(3.0)), (2, None)]);
        assert_eq!((log.resumed_at.as_slice(), log.is_finished()), (&[1][..], false));
    }

    #[test]
    fn a_broken_line_is_named() {
        let message = read("{\"event\":\"iteration\",\"iteration\":1}\nnonsense\n").unwrap_err().to_string();
        assert!(message.contains("log.jsonl, line 2: "), "{message}");
    }
}
