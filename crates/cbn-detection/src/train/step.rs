//! One step: losses, gradients, weights.

use std::collections::BTreeMap;

use burn::optim::GradientsParams;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Sgd, TrainConfig, TrainError, gradients};
use crate::model::Detector;
use crate::structures::{ImageBatch, Losses, Targets};

/// What a step measured.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// By name.
    pub losses: BTreeMap<&'static str, f64>,
    /// Their sum.
    pub loss: f64,
    /// L2 norm over all gradients, before clipping.
    pub gradient_norm: f64,
    /// The rate of this step.
    pub learning_rate: f64,
}

/// Everything random in an iteration comes from here: the same numbers whether the run was interrupted or not.
fn rng(seed: u64, iteration: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(iteration as u64);
    rng
}

/// Moves the detector's weights by one step.
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
) -> Result<(Detector, StepReport), TrainError> {
    let (images, targets) = batch;
    let losses = detector.forward_train(images, targets, &mut rng(config.seed, iteration));
    let values = finite_losses(&losses, iteration)?;

    let gradients = GradientsParams::from_grads(losses.total().backward(), &detector);
    let gradient_norm = gradients::global_norm(&detector, &gradients);
    if !gradient_norm.is_finite() {
        return Err(TrainError::NonFiniteGradient { iteration: iteration + 1, value: gradient_norm });
    }
    let gradients = match config.clip_norm {
        Some(max_norm) => gradients::clip(&detector, gradients, gradient_norm, max_norm),
        None => gradients,
    };
    let learning_rate = config.schedule.learning_rate(iteration);
    let detector = sgd.step(detector, gradients, learning_rate);
    let loss = values.values().sum();
    Ok((detector, StepReport { losses: values, loss, gradient_norm, learning_rate }))
}

fn finite_losses(losses: &Losses, iteration: usize) -> Result<BTreeMap<&'static str, f64>, TrainError> {
    let mut values = BTreeMap::new();
    for (name, loss) in losses.named() {
        let value = f64::from(loss.into_scalar::<f32>());
        if !value.is_finite() {
            return Err(TrainError::NonFiniteLoss { iteration: iteration + 1, loss: name, value });
        }
        values.insert(name, value);
    }
    Ok(values)
}
