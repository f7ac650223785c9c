//! The training loop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use serde_json::Value;

use super::log::peak_memory_mib;
use super::run_info::write_whole;
use super::step::{StepReport, train_step};
use super::{
    Checkpoint, CheckpointError, CheckpointInfo, EvaluationRecord, IterationRecord, Log, Record, RunInfo, Sgd,
    TrainConfig, TrainError, WorkDir, collect,
};
use crate::data::{Category, TrainLoader};
use crate::eval::{Evaluator, Summary, write_results};
use crate::model::{Detector, DetectorConfig};
use crate::structures::TrainBatch;

/// A detector with the random weights of a seed, on a device that records gradients.
///
/// # Panics
///
/// If the configuration is not valid; see [`DetectorConfig::validate`].
pub fn initial_detector(config: &DetectorConfig, seed: u64, device: &Device) -> Detector {
    device.seed(seed);
    Detector::init(config, &device.clone().autodiff())
}

/// What the loop tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A line was written to the log.
    Logged(&'a Record),
    /// Images of the running evaluation that are done.
    Evaluating {
        /// So far.
        num_done: usize,
        /// Of so many.
        num_images: usize,
    },
}

/// All that a run needs beside its weights.
#[derive(Debug)]
pub struct Trainer {
    /// Every number.
    pub config: TrainConfig,
    /// The batches.
    pub loader: TrainLoader,
    /// What evaluations measure.
    pub evaluator: Evaluator,
    /// Where checkpoints and the log go.
    pub work_dir: WorkDir,
    /// The data set's classes, for the checkpoints.
    pub categories: Vec<Category>,
    /// The resolved recipe, for the checkpoints.
    pub plan: Value,
    /// Where the arithmetic happens.
    pub device: Device,
}

/// What changes from iteration to iteration.
struct Run {
    detector: Detector,
    sgd: Sgd,
    /// Finished ones.
    iteration: usize,
    log: Log,
}

impl Trainer {
    /// Trains to the end of the run, from its start or from the work directory's checkpoint.
    ///
    /// A resumed run computes what the uninterrupted one would have computed, bit for bit.
    ///
    /// # Errors
    ///
    /// See [`TrainError`].
    pub fn train(&self, detector: Detector, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Detector, TrainError> {
        let found = self.loader.batches_per_epoch();
        if found != self.config.iterations_per_epoch {
            return Err(TrainError::EpochLength { planned: self.config.iterations_per_epoch, found });
        }
        let mut run = self.start(detector)?;
        self.run_info().save(&self.work_dir.run_info_path())?;
        let start = Record::Start {
            iteration: run.iteration,
            num_iterations: self.config.num_iterations,
            iterations_per_epoch: self.config.iterations_per_epoch,
            seed: self.config.seed,
        };
        emit(&mut run.log, &start, on_event)?;
        if run.iteration == self.config.num_iterations {
            // The run was stopped between its last checkpoint and its last evaluation.
            self.evaluate(&mut run, on_event)?;
        }
        while run.iteration < self.config.num_iterations {
            run = self.train_epoch(run, on_event)?;
        }
        Ok(run.detector)
    }

    fn run_info(&self) -> RunInfo {
        let device = format!("{:?}", self.device);
        RunInfo::new(device, self.loader.num_images(), self.evaluator.dataset(), self.plan.clone())
    }

    fn start(&self, detector: Detector) -> Result<Run, TrainError> {
        let mut sgd = Sgd::new(self.config.optimizer.clone());
        let log = self.work_dir.open_log()?;
        let Some(path) = self.work_dir.resume_from() else {
            return Ok(Run { detector, sgd, iteration: 0, log });
        };
        let mut checkpoint = Checkpoint::load(path)?;
        self.check_plan(path, &checkpoint.info)?;
        let detector = checkpoint.restore_model(path, detector)?;
        sgd.restore(&detector, checkpoint.velocities)
            .map_err(|names| CheckpointError::ForeignVelocities { path: path.to_owned(), names })?;
        Ok(Run { detector, sgd, iteration: checkpoint.info.iteration, log })
    }

    fn check_plan(&self, path: &Path, info: &CheckpointInfo) -> Result<(), TrainError> {
        let Some((key, found, expected)) = first_difference(&info.plan, &self.plan, "") else { return Ok(()) };
        Err(TrainError::OtherPlan { path: path.to_owned(), key, found, expected })
    }

    /// The rest of the epoch that the run is in.
    fn train_epoch(&self, mut run: Run, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Run, TrainError> {
        let per_epoch = self.config.iterations_per_epoch;
        let (epoch, num_done) = (run.iteration / per_epoch, run.iteration % per_epoch);
        let mut batches = self.loader.epoch(epoch, num_done);
        while run.iteration < self.config.num_iterations {
            let began = Instant::now();
            let Some(batch) = batches.next() else { break };
            let batch = batch?;
            let data_s = began.elapsed().as_secs_f64();
            let report;
            (run.detector, report) = self.step(run.detector, &mut run.sgd, run.iteration, &batch)?;
            run.iteration += 1;
            let record = iteration_record(run.iteration, epoch, report, [began.elapsed().as_secs_f64(), data_s]);
            emit(&mut run.log, &Record::Iteration(record), on_event)?;
            if self.config.is_saved_after(run.iteration) {
                self.save(&mut run, on_event)?;
            }
            if self.config.is_evaluated_after(run.iteration) {
                self.evaluate(&mut run, on_event)?;
            }
        }
        Ok(run)
    }

    fn step(
        &self,
        detector: Detector,
        sgd: &mut Sgd,
        iteration: usize,
        batch: &TrainBatch,
    ) -> Result<(Detector, StepReport), TrainError> {
        let images = batch.images.to_device(&self.device.clone().autodiff());
        train_step(detector, sgd, &self.config, iteration, (&images, &batch.targets))
    }

    fn save(&self, run: &mut Run, on_event: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
        let path = self.work_dir.checkpoint_path(run.iteration);
        let checkpoint = Checkpoint {
            info: CheckpointInfo {
                iteration: run.iteration,
                seed: self.config.seed,
                categories: self.categories.clone(),
                plan: self.plan.clone(),
            },
            model: collect(&run.detector),
            velocities: run.sgd.state(&run.detector),
        };
        checkpoint.save(&path)?;
        emit(&mut run.log, &Record::Checkpoint { iteration: run.iteration, path }, on_event)
    }

    fn evaluate(&self, run: &mut Run, on_event: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
        let began = Instant::now();
        let num_images = self.evaluator.num_images();
        let (detections, summaries) = self.evaluator.run(&run.detector.valid(), &self.device, &mut |num_done| {
            on_event(Event::Evaluating { num_done, num_images });
        })?;
        let path = self.work_dir.detections_path();
        write_whole(&path, |unfinished| write_results(unfinished, &detections))?;
        let record = EvaluationRecord {
            iteration: run.iteration,
            epoch: run.iteration / self.config.iterations_per_epoch,
            metrics: summaries.iter().map(|summary| (summary.iou_type.name().to_owned(), metrics(summary))).collect(),
            elapsed_s: began.elapsed().as_secs_f64(),
        };
        emit(&mut run.log, &Record::Evaluation(record), on_event)
    }
}

fn metrics(summary: &Summary) -> BTreeMap<String, Option<f64>> {
    summary.named().into_iter().collect()
}

fn iteration_record(iteration: usize, epoch: usize, report: StepReport, seconds: [f64; 2]) -> IterationRecord {
    let [elapsed_s, data_s] = seconds;
    IterationRecord {
        iteration,
        epoch,
        learning_rate: report.learning_rate,
        losses: report.losses,
        loss: report.loss,
        gradient_norm: report.gradient_norm,
        elapsed_s,
        data_s,
        peak_memory_mib: peak_memory_mib(),
    }
}

fn emit(log: &mut Log, record: &Record, on_event: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
    log.write(record)?;
    on_event(Event::Logged(record));
    Ok(())
}

/// The first entry in which two plans differ: its path, and both values.
fn first_difference(found: &Value, expected: &Value, path: &str) -> Option<(String, String, String)> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            let keys: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
            keys.into_iter().find_map(|key| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let null = &Value::Null;
                first_difference(found.get(key).unwrap_or(null), expected.get(key).unwrap_or(null), &path)
            })
        }
        (found, expected) if found == expected => None,
        (found, expected) => Some((path.to_owned(), found.to_string(), expected.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_of_two_plans_has_its_path() {
        let first = json!({ "a": 1, "train": { "seed": 0, "lr": 0.1 } });
        assert_eq!(first_difference(&first, &first, ""), None);
        let second = json!({ "a": 1, "train": { "seed": 0, "lr": 0.2, "new": true } });
        let difference = first_difference(&first, &second, "").unwrap();
        assert_eq!(difference, ("train.lr".to_owned(), "0.1".to_owned(), "0.2".to_owned()));
    }
}
