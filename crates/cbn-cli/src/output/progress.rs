//! The progress of a run on stderr.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use cbn_detection::train::{Event, IterationRecord, LogError, Observer, Record};
use indicatif::{ProgressBar, ProgressStyle};

use super::scores::{self, Metrics};

/// How often a line is printed where there is no terminal to redraw a bar on.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Draws a bar on a terminal, prints a line now and then elsewhere.
pub struct Progress {
    bar: ProgressBar,
    num_iterations: usize,
    last_line: Instant,
    evaluations: Vec<(usize, Metrics)>,
}

impl Progress {
    pub fn new(num_iterations: usize) -> Self {
        let bar = ProgressBar::new(num_iterations as u64);
        bar.set_style(style("{bar:24} {pos}/{len} {elapsed_precise} eta {eta_precise} {wide_msg}"));
        Self { bar, num_iterations, last_line: Instant::now(), evaluations: Vec::new() }
    }

    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Logged(Record::Start { iteration, .. }) => {
                self.bar.set_position(*iteration as u64);
                self.bar.reset_eta();
            }
            Event::Logged(Record::Iteration(record)) => self.iteration(record),
            Event::Logged(Record::Evaluation(record)) => {
                let line = format!("iteration {}: {}", record.iteration, scores::short(&record.metrics));
                self.line(&line);
                self.evaluations.push((record.iteration, record.metrics.clone()));
            }
            Event::Logged(Record::Checkpoint { path, .. }) => self.line(&format!("wrote {}", path.display())),
            Event::Logged(Record::SkippedCheckpoint { reason, .. }) => self.line(&format!("skipped: {reason}")),
            Event::Logged(Record::OtherProcesses { written_by, resumed_by }) => self.line(&format!(
                "processes: {resumed_by} now, {written_by} wrote the checkpoint; bn and cbn go on with rank 0's statistics"
            )),
            Event::Logged(Record::BadImage { reason, num_bad, limit }) => {
                self.line(&format!("bad image {num_bad} of at most {limit}: {reason}"));
            }
            Event::Logged(Record::Stopped { iteration }) => self.line(&format!("stopped after iteration {iteration}")),
            Event::Detected { .. } => {}
            Event::Evaluating { num_done, num_images } => {
                self.bar.set_message(format!("evaluating {num_done}/{num_images}"));
            }
        }
    }

    /// Ends the bar; the evaluations' numbers, each after so many iterations.
    pub fn finish(self) -> Vec<(usize, Metrics)> {
        self.bar.finish_and_clear();
        self.evaluations
    }

    fn iteration(&mut self, record: &IterationRecord) {
        let message = describe(record);
        self.bar.set_position(record.iteration as u64);
        self.bar.set_message(message.clone());
        if self.bar.is_hidden() && self.last_line.elapsed() >= PLAIN_INTERVAL {
            let eta = record.eta_s;
            self.line(&format!("{}/{} eta {eta:.0}s {message}", record.iteration, self.num_iterations));
        }
    }

    fn line(&mut self, text: &str) {
        self.last_line = Instant::now();
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }
}

impl Observer for Progress {
    fn observe(&mut self, event: &Event<'_>) -> Result<(), LogError> {
        self.show(event);
        Ok(())
    }
}

fn describe(record: &IterationRecord) -> String {
    let losses: Vec<String> = record.losses.iter().map(|(name, loss)| format!("{name} {loss:.3}")).collect();
    let exchange = if record.exchange_s == 0.0 {
        String::new()
    } else {
        format!(" exchange {:.0} %", 100.0 * record.exchange_s / record.elapsed_s)
    };
    let memory = record.peak_memory_mib.map_or_else(String::new, |mib| format!(" {:.1} GiB", mib as f64 / 1024.0));
    format!(
        "{:.1} images/s{memory}{exchange} lr {:.5} loss {:.3} ({})",
        record.images_per_s,
        record.learning_rate,
        record.loss,
        losses.join(" ")
    )
}

/// Moves a bar on, and never stops what it shows.
pub fn advance(bar: &ProgressBar) -> impl FnMut(usize) -> ControlFlow<()> {
    |num_done| {
        bar.set_position(num_done as u64);
        ControlFlow::Continue(())
    }
}

/// A bar over the images of an evaluation.
pub fn evaluation_bar(num_images: usize) -> ProgressBar {
    let bar = ProgressBar::new(num_images as u64);
    bar.set_style(style("evaluating {bar:24} {pos}/{len} eta {eta_precise}"));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is one of the constants of this file")
}
