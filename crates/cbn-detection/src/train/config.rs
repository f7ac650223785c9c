//! Every number of a training run.

use serde::{Deserialize, Serialize};

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
    /// The detector is evaluated after so many iterations, and at the end.
    pub evaluate_every: usize,
    /// A checkpoint is written after so many iterations, and at the end.
    pub checkpoint_every: usize,
}

impl TrainConfig {
    pub(super) fn is_evaluated_after(&self, iteration: usize) -> bool {
        iteration == self.num_iterations || iteration.is_multiple_of(self.evaluate_every)
    }

    pub(super) fn is_saved_after(&self, iteration: usize) -> bool {
        iteration == self.num_iterations || iteration.is_multiple_of(self.checkpoint_every)
    }
}
