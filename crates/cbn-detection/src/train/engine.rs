//! The training loop.

mod resume;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use cbn::process_group::Peers;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ema::Ema;
use super::log::peak_memory_mib;
use super::parallel;
use super::step::{Step, StepReport};
use super::{
    BestScore, Checkpoint, CheckpointInfo, EvaluationRecord, Event, IterationRecord, Observer, Record, RunInfo, Sgd,
    StopRequest, TrainConfig, TrainError, WorkDir, collect, freeze,
};
use crate::agree::agree;
use crate::data::{Category, DataError, TrainLoader};
use crate::eval::{EvalError, Evaluator, Summary, write_results};
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
    /// Looked at between steps.
    pub stop: StopRequest,
    /// Iterations after which the run stops although its schedule goes on; none if absent.
    pub max_iterations: Option<usize>,
    /// The processes that train together; rank 0 writes.
    pub peers: Peers,
}

/// Weights of all processes are compared after so many iterations, and with every checkpoint.
const COMPARE_EVERY: usize = 100;

/// How far a run came.
#[derive(Debug)]
pub struct Outcome {
    /// Its weights.
    pub detector: Detector,
    /// Finished iterations.
    pub iteration: usize,
    /// False if the run was stopped before its end: it was saved and can go on.
    pub is_finished: bool,
}

/// What changes from iteration to iteration.
struct Run<'a> {
    detector: Detector,
    sgd: Sgd,
    ema: Option<Ema>,
    /// Finished ones.
    iteration: usize,
    /// The last checkpoint that is there.
    saved: Option<usize>,
    best: Option<BestScore>,
    /// Whether a process was asked to stop.
    is_stopping: bool,
    /// When, and after which iteration, this process took the run up.
    began: (Instant, usize),
    /// What the observer took since the last iteration's record was made.
    log_s: f64,
    observer: &'a mut dyn Observer,
}

impl Run<'_> {
    fn log(&mut self, record: &Record) -> Result<(), TrainError> {
        let began = Instant::now();
        self.observer.observe(&Event::Logged(record))?;
        self.log_s += began.elapsed().as_secs_f64();
        Ok(())
    }
}

impl Trainer {
    /// Trains to the end of the run, from its start or from the work directory's newest checkpoint that is whole.
    ///
    /// A resumed run computes what the uninterrupted one would have computed, bit for bit. Where the data ends early or the run is asked to
    /// stop, it saves first.
    ///
    /// # Errors
    ///
    /// See [`TrainError`].
    pub fn train(&self, detector: Detector, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        let found = self.loader.batches_per_epoch() / self.config.accumulate;
        if found != self.config.iterations_per_epoch {
            return Err(TrainError::EpochLength { planned: self.config.iterations_per_epoch, found });
        }
        let written = if self.peers.is_first() { self.run_info().save(&self.work_dir.run_info_path()) } else { Ok(()) };
        self.agree(written)?;
        let detector = freeze(detector, &self.config.freeze)?;
        let (mut run, restored) = self.start(detector, observer);
        self.agree(restored)?;
        parallel::check_same_weights(&run.detector, run.iteration, &self.peers)?;
        let start = Record::Start {
            iteration: run.iteration,
            num_iterations: self.config.num_iterations,
            iterations_per_epoch: self.config.iterations_per_epoch,
            seed: self.config.seed,
        };
        run.log(&start)?;
        let last = self.last_iteration();
        if run.iteration > 0 && self.is_evaluated_after(run.iteration) {
            // Whether the run was stopped before or after this evaluation, nobody knows.
            self.evaluate(&mut run)?;
        }
        while run.iteration < last && !self.is_stopped(&mut run) {
            run = self.train_epoch(run)?;
        }
        if self.is_stopped(&mut run) {
            self.save(&mut run)?;
            run.log(&Record::Stopped { iteration: run.iteration })?;
        }
        let is_finished = run.iteration == self.config.num_iterations && !run.is_stopping;
        Ok(Outcome { detector: run.detector, iteration: run.iteration, is_finished })
    }

    /// Whether any process was asked to stop; all processes ask this at the same points.
    fn is_stopped(&self, run: &mut Run<'_>) -> bool {
        run.is_stopping = run.is_stopping || parallel::any(self.stop.is_made(), &self.peers);
        run.is_stopping
    }

    /// Fails where any process does.
    fn agree<T: Serialize + DeserializeOwned>(&self, own: Result<T, TrainError>) -> Result<Vec<T>, TrainError> {
        agree(own, &self.peers, |rank, reason| TrainError::Peer { rank, reason })
    }

    fn last_iteration(&self) -> usize {
        self.max_iterations.map_or(self.config.num_iterations, |max| max.min(self.config.num_iterations))
    }

    fn is_evaluated_after(&self, iteration: usize) -> bool {
        iteration == self.last_iteration() || self.config.is_evaluated_after(iteration)
    }

    fn is_saved_after(&self, iteration: usize) -> bool {
        iteration == self.last_iteration() || self.config.is_saved_after(iteration)
    }

    fn run_info(&self) -> RunInfo {
        let device = format!("{:?}", self.device);
        RunInfo::new(device, self.loader.num_images(), self.evaluator.dataset(), self.plan.clone())
    }

    fn start<'a>(&self, detector: Detector, observer: &'a mut dyn Observer) -> (Run<'a>, Result<(), TrainError>) {
        let mut run = Run {
            detector,
            sgd: Sgd::new(self.config.optimizer.clone()),
            ema: self.config.ema.map(Ema::new),
            iteration: 0,
            saved: None,
            best: None,
            is_stopping: false,
            began: (Instant::now(), 0),
            log_s: 0.0,
            observer,
        };
        let restored = if self.work_dir.resumes() { self.restore(&mut run) } else { Ok(()) };
        (run, restored)
    }

    /// The rest of the epoch that the run is in.
    fn train_epoch<'a>(&self, mut run: Run<'a>) -> Result<Run<'a>, TrainError> {
        let per_epoch = self.config.iterations_per_epoch;
        let (epoch, num_done) = (run.iteration / per_epoch, run.iteration % per_epoch);
        let mut batches = self.loader.epoch(epoch, num_done * self.config.accumulate);
        for _ in num_done..per_epoch {
            if run.iteration == self.last_iteration() || self.is_stopped(&mut run) {
                break;
            }
            let began = (Instant::now(), self.peers.traffic().elapsed_s);
            let report;
            let num_images;
            (run, report, num_images) = self.iterate(run, &mut batches)?;
            run.iteration += 1;
            self.tell_bad_images(&mut run)?;
            let record = self.iteration_record(&mut run, report, num_images, began);
            run.log(&Record::Iteration(record))?;
            if run.iteration.is_multiple_of(COMPARE_EVERY) || self.is_saved_after(run.iteration) {
                parallel::check_same_weights(&run.detector, run.iteration, &self.peers)?;
            }
            if self.is_saved_after(run.iteration) {
                self.save(&mut run)?;
            }
            if self.is_evaluated_after(run.iteration) {
                self.evaluate(&mut run)?;
            }
        }
        Ok(run)
    }

    /// One step on the next batches; how long it waited for them stands in the report's last place.
    fn iterate<'a>(
        &self,
        mut run: Run<'a>,
        batches: &mut dyn Iterator<Item = Result<TrainBatch, DataError>>,
    ) -> Result<(Run<'a>, (StepReport, f64), usize), TrainError> {
        let mut step = Step::new(&self.config, run.iteration, &self.peers);
        let mut image_ids = Vec::new();
        let mut data_s = 0.0;
        for batch in batches.take(self.config.accumulate) {
            let began = Instant::now();
            let (batch, fault) = match batch {
                Ok(batch) => (Some(batch), Ok(())),
                Err(error) => (None, Err(error.into())),
            };
            if let Err(error) = self.agree(fault) {
                // The run is as good as before.
                self.tell_bad_images(&mut run)?;
                self.save(&mut run)?;
                return Err(error);
            }
            let batch = batch.expect("an error is an error of all processes");
            let images = batch.images.to_device(&self.device.clone().autodiff());
            data_s += began.elapsed().as_secs_f64();
            image_ids.extend(batch.image_ids);
            step.add(&run.detector, (&images, &batch.targets), &batch.places)
                .map_err(|source| self.diverged(run.iteration, run.saved, source, &image_ids))?;
        }
        let report;
        (run.detector, report) = step
            .finish(run.detector, &mut run.sgd)
            .map_err(|source| self.diverged(run.iteration, run.saved, source, &image_ids))?;
        if let Some(ema) = &mut run.ema {
            ema.update(&run.detector, run.iteration);
        }
        Ok((run, (report, data_s), image_ids.len()))
    }

    fn diverged(
        &self,
        num_done: usize,
        saved: Option<usize>,
        source: super::StepError,
        image_ids: &[u64],
    ) -> TrainError {
        let checkpoint = saved.map(|iteration| self.work_dir.checkpoint_path(iteration));
        // All processes have the same losses, so all of them are here.
        let ids: Vec<u8> = image_ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let ids = self.peers.gather(&ids).concat();
        let ids: Vec<u64> = ids.as_chunks::<8>().0.iter().map(|&id| u64::from_le_bytes(id)).collect();
        let images = self.loader.file_names(&ids);
        let error = TrainError::Diverged { iteration: num_done + 1, source, images, checkpoint };
        if self.peers.is_first() { error } else { TrainError::Peer { rank: 0, reason: error.to_string() } }
    }

    fn tell_bad_images(&self, run: &mut Run<'_>) -> Result<(), TrainError> {
        for (num_bad, reason) in self.loader.bad_images().take_new() {
            run.log(&Record::BadImage { reason, num_bad, limit: self.loader.bad_images().limit() })?;
        }
        Ok(())
    }

    fn iteration_record(
        &self,
        run: &mut Run<'_>,
        (report, data_s): (StepReport, f64),
        num_images: usize,
        (began, exchanged_s): (Instant, f64),
    ) -> IterationRecord {
        let elapsed_s = began.elapsed().as_secs_f64();
        let (taken_up, first) = run.began;
        let pace_s = taken_up.elapsed().as_secs_f64() / (run.iteration - first) as f64;
        IterationRecord {
            iteration: run.iteration,
            epoch: (run.iteration - 1) / self.config.iterations_per_epoch,
            learning_rate: report.learning_rate,
            losses: report.losses,
            loss: report.loss,
            class_accuracy: report.class_accuracy,
            gradient_norm: report.gradient_norm,
            elapsed_s,
            data_s,
            forward_s: report.forward_s,
            backward_s: report.backward_s,
            optimizer_s: report.optimizer_s,
            exchange_s: self.peers.traffic().elapsed_s - exchanged_s,
            log_s: std::mem::take(&mut run.log_s),
            images_per_s: (num_images * self.peers.size()) as f64 / elapsed_s,
            eta_s: pace_s * (self.last_iteration() - run.iteration) as f64,
            peak_memory_mib: peak_memory_mib(),
        }
    }

    /// Writes a checkpoint of this iteration, unless it is there.
    fn save(&self, run: &mut Run<'_>) -> Result<(), TrainError> {
        if run.saved == Some(run.iteration) {
            return Ok(());
        }
        let began = Instant::now();
        let path = self.work_dir.checkpoint_path(run.iteration);
        let model = collect(&run.detector);
        let checkpoint = Checkpoint {
            info: CheckpointInfo {
                iteration: run.iteration,
                seed: self.config.seed,
                best: run.best.clone(),
                categories: self.categories.clone(),
                plan: self.plan.clone(),
            },
            others: parallel::tensors_of_others(&model, &self.peers),
            model,
            velocities: run.sgd.state(&run.detector),
            averages: run.ema.as_ref().map(|ema| ema.state(&run.detector)).unwrap_or_default(),
        };
        let write = || {
            checkpoint.save(&path)?;
            self.work_dir.rotate(self.config.keep_checkpoints)
        };
        let written = if self.peers.is_first() { write() } else { Ok(()) };
        self.agree(written.map_err(Into::into))?;
        run.saved = Some(run.iteration);
        let elapsed_s = began.elapsed().as_secs_f64();
        run.log(&Record::Checkpoint { iteration: run.iteration, path, elapsed_s })
    }

    /// Scores the detector, with averaged weights if the run takes averages. If the run is asked to stop meanwhile, it goes without.
    fn evaluate(&self, run: &mut Run<'_>) -> Result<(), TrainError> {
        let began = Instant::now();
        let num_images = self.evaluator.num_images();
        let detector = match &run.ema {
            Some(ema) => ema.apply(run.detector.clone()).valid(),
            None => run.detector.valid(),
        };
        let detector = parallel::with_statistics_of_first(detector, &self.peers);
        let mut told = Ok(());
        let scored = self.evaluator.run(&detector, &self.device, &mut |num_done| {
            told = run.observer.observe(&Event::Evaluating { num_done, num_images });
            if told.is_err() || self.stop.is_made() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        told?;
        let (detections, summaries) = match scored {
            Err(EvalError::Interrupted) => return Ok(()),
            Err(EvalError::Data(source @ DataError::Image { .. })) => {
                return Err(TrainError::Validation { iteration: run.iteration, source });
            }
            scored => scored?,
        };
        let write = || write_results(&self.work_dir.detections_path(), &detections);
        let written = if self.peers.is_first() { write() } else { Ok(()) };
        self.agree(written.map_err(Into::into))?;
        run.observer.observe(&Event::Detected { iteration: run.iteration, detections: &detections })?;
        let is_best = self.take_best(run, &summaries)?;
        let record = EvaluationRecord {
            iteration: run.iteration,
            epoch: run.iteration / self.config.iterations_per_epoch,
            metrics: summaries.iter().map(|summary| (summary.iou_type.name().to_owned(), metrics(summary))).collect(),
            is_best,
            elapsed_s: began.elapsed().as_secs_f64(),
        };
        run.log(&Record::Evaluation(record))
    }

    /// Keeps the checkpoint if none before was better. Masks count more than boxes: whoever trains them wants them.
    fn take_best(&self, run: &mut Run<'_>, summaries: &[Summary]) -> Result<bool, TrainError> {
        let score = summaries.last().and_then(|summary| Some((summary.iou_type.name(), metrics(summary)["AP"]?)));
        let Some((metric, ap)) = score else { return Ok(false) };
        if run.best.as_ref().is_some_and(|best| ap <= best.ap) {
            return Ok(false);
        }
        let best = BestScore { iteration: run.iteration, metric: metric.to_owned(), ap };
        let kept = if self.peers.is_first() { self.work_dir.keep_as_best(&best) } else { Ok(()) };
        self.agree(kept.map_err(Into::into))?;
        run.best = Some(best);
        Ok(true)
    }
}

fn metrics(summary: &Summary) -> BTreeMap<String, Option<f64>> {
    summary.named().into_iter().collect()
}
