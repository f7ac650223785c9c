//! Every number of a training run.

use serde::{Deserialize, Serialize};

use super::ema::EmaConfig;
use super::optimizer::SgdConfig;
use super::schedule::ScheduleConfig;

/// A training run with all lengths in iterations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Of the whole run.
    pub num_iterations: usize,
    /// What the loader yields for one pass over the training images.
    pub iterations_per_epoch: usize,
    /// The learning rate.
    pub schedule: ScheduleConfig,
    /// The steps.
    pub optimizer: SgdConfig,
    /// Limit of the L2 norm over all gradients; none if absent.
    pub clip_norm: Option<f64>,
    /// Of everything random.
    pub seed: u64,
    /// Batches whose mean gradient makes one step; 1 for a step on each.
    pub accumulate: usize,
    /// Modules whose weights stay as they are, by path.
    pub freeze: Vec<String>,
    /// The average of the weights that is evaluated; none if absent.
    pub ema: Option<EmaConfig>,
    /// The detector is evaluated after so many iterations, and at the end.
    pub evaluate_every: usize,
    /// Validation images that evaluations take, the first ones; all if absent. Whoever makes the evaluator heeds it.
    #[serde(default)]
    pub evaluate_images: Option<usize>,
    /// A checkpoint is written after so many iterations, before each evaluation, and at the end.
    pub checkpoint_every: usize,
    /// Checkpoints that stay, the newest ones; the best one stays as well.
    pub keep_checkpoints: usize,
}

impl TrainConfig {
    pub(super) fn is_evaluated_after(&self, iteration: usize) -> bool {
        iteration == self.num_iterations || iteration.is_multiple_of(self.evaluate_every)
    }

    /// An evaluation may take long, and what it finds best has to be there.
    pub(super) fn is_saved_after(&self, iteration: usize) -> bool {
        iteration.is_multiple_of(self.checkpoint_every) || self.is_evaluated_after(iteration)
    }
}
