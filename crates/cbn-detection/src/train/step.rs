//! One step: losses, gradients, weights.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use cbn::process_group::Peers;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use super::{Sgd, TrainConfig, gradients, parallel};
use crate::model::Detector;
use crate::structures::{ImageBatch, Losses, Targets};

/// What a step measured.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// By name; of several batches, the mean.
    pub losses: BTreeMap<&'static str, f64>,
    /// Their sum.
    pub loss: f64,
    /// Percentage of the sampled rois that the box head classified right; of several batches, the mean.
    pub class_accuracy: f64,
    /// L2 norm over all gradients, before clipping.
    pub gradient_norm: f64,
    /// The rate of this step.
    pub learning_rate: f64,
    /// From images to losses.
    pub forward_s: f64,
    /// From losses to gradients and their norm.
    pub backward_s: f64,
    /// From gradients to weights.
    pub optimizer_s: f64,
}

/// A step that must not be taken.
#[derive(Clone, Debug, Error)]
pub enum StepError {
    /// A loss is not a number.
    #[error("{loss} is {value} (losses {})", list(losses))]
    Loss {
        /// Which one.
        loss: &'static str,
        /// What it became.
        value: f64,
        /// All of the batch.
        losses: BTreeMap<&'static str, f64>,
    },
    /// The gradient is not a number.
    #[error("the gradient's norm is {norm} (losses {})", list(losses))]
    Gradient {
        /// What it became.
        norm: f64,
        /// Of the step.
        losses: BTreeMap<&'static str, f64>,
    },
}

fn list(losses: &BTreeMap<&'static str, f64>) -> String {
    losses.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

/// Everything random in a batch's losses comes from here: the same numbers whether the run was interrupted or not.
fn rng(seed: u64, batch: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(batch as u64);
    rng
}

/// Moves the detector's weights by one step on one batch.
///
/// `iteration` counts finished iterations.
///
/// # Errors
///
/// A loss or the gradient is not finite; the detector is lost then, because its statistics have seen the batch.
pub fn train_step(
    detector: Detector,
    sgd: &mut Sgd,
    config: &TrainConfig,
    iteration: usize,
    batch: (&ImageBatch, &[Targets]),
) -> Result<(Detector, StepReport), StepError> {
    let alone = Peers::default();
    let mut step = Step::new(config, iteration, &alone);
    let places: Vec<usize> = (0..batch.1.len()).collect();
    step.add(&detector, batch, &places)?;
    step.finish(detector, sgd)
}

/// The gradients of one or more batches on the way to a step.
pub(super) struct Step<'a> {
    config: &'a TrainConfig,
    iteration: usize,
    /// Who shares the images of each batch.
    peers: &'a Peers,
    gradients: Option<GradientsParams>,
    losses: BTreeMap<&'static str, f64>,
    class_accuracy: f64,
    num_batches: usize,
    forward_s: f64,
    backward_s: f64,
}

impl<'a> Step<'a> {
    pub(super) fn new(config: &'a TrainConfig, iteration: usize, peers: &'a Peers) -> Self {
        let losses = BTreeMap::new();
        Self {
            config,
            iteration,
            peers,
            gradients: None,
            losses,
            class_accuracy: 0.0,
            num_batches: 0,
            forward_s: 0.0,
            backward_s: 0.0,
        }
    }

    /// Adds a batch's share to the gradient: each batch counts alike. `places` are those of the images among the batches of all peers, which
    /// have as many images each.
    pub(super) fn add(
        &mut self,
        detector: &Detector,
        batch: (&ImageBatch, &[Targets]),
        places: &[usize],
    ) -> Result<(), StepError> {
        let began = Instant::now();
        let (images, targets) = batch;
        let share = 1.0 / self.config.accumulate as f64;
        let mut rng = rng(self.config.seed, self.iteration * self.config.accumulate + self.num_batches);
        // An image draws the same whichever process has it.
        let seeds: Vec<u64> = (0..self.peers.size() * targets.len()).map(|_| rng.next_u64()).collect();
        let mut draws: Vec<ChaCha8Rng> = places.iter().map(|&i| ChaCha8Rng::seed_from_u64(seeds[i])).collect();
        let losses = detector.forward_train_on(images, targets, &mut draws).among(self.peers);
        let (values, class_accuracy) = measured(&losses, self.peers)?;
        for (name, value) in values {
            *self.losses.entry(name).or_default() += value * share;
        }
        self.class_accuracy += class_accuracy * share;
        self.forward_s += began.elapsed().as_secs_f64();

        let began = Instant::now();
        // A factor of 1 would be one more rounding that changes nothing, and one more operation.
        let total = if self.config.accumulate == 1 { losses.total() } else { losses.total().mul_scalar(share) };
        let gradients = GradientsParams::from_grads(total.backward(), detector);
        self.gradients = Some(match self.gradients.take() {
            Some(sum) => gradients::add(detector, sum, gradients),
            None => gradients,
        });
        self.num_batches += 1;
        self.backward_s += began.elapsed().as_secs_f64();
        Ok(())
    }

    /// Moves the weights.
    pub(super) fn finish(mut self, detector: Detector, sgd: &mut Sgd) -> Result<(Detector, StepReport), StepError> {
        let began = Instant::now();
        let gradients = self.gradients.take().unwrap_or_default();
        let gradients = parallel::sum_gradients(&detector, gradients, self.peers);
        let gradient_norm = gradients::global_norm(&detector, &gradients);
        if !gradient_norm.is_finite() {
            return Err(StepError::Gradient { norm: gradient_norm, losses: self.losses });
        }
        let backward_s = self.backward_s + began.elapsed().as_secs_f64();

        let began = Instant::now();
        let scale = self.config.clip_norm.map_or(1.0, |max_norm| gradients::clip_factor(gradient_norm, max_norm));
        let learning_rate = self.config.schedule.learning_rate(self.iteration);
        let detector = sgd.step(detector, gradients, learning_rate, scale);
        let report = StepReport {
            loss: self.losses.values().sum(),
            losses: self.losses,
            class_accuracy: self.class_accuracy,
            gradient_norm,
            learning_rate,
            forward_s: self.forward_s,
            backward_s,
            optimizer_s: began.elapsed().as_secs_f64(),
        };
        Ok((detector, report))
    }
}

/// The losses, and the class accuracy, over all processes: a loss that is not a number anywhere is none everywhere.
fn measured(losses: &Losses, peers: &Peers) -> Result<(BTreeMap<&'static str, f64>, f64), StepError> {
    let number = |tensor: Tensor<1>| f64::from(tensor.into_scalar::<f32>());
    let (names, mut values): (Vec<_>, Vec<_>) =
        losses.named().into_iter().map(|(name, loss)| (name, number(loss))).unzip();
    values.push(number(losses.class_accuracy.clone()));
    peers.sum_f64(&mut values);
    let class_accuracy = values.pop().unwrap_or_default();
    let losses: BTreeMap<&'static str, f64> = names.into_iter().zip(values).collect();
    match losses.iter().find(|(_, value)| !value.is_finite()) {
        Some((&loss, &value)) => Err(StepError::Loss { loss, value, losses }),
        None => Ok((losses, class_accuracy)),
    }
}
