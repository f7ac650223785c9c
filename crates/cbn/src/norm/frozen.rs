//! Normalisation by fixed statistics.

use burn::module::{Initializer, Module, Param, RunningState};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::FeatureMap;
use crate::ops::{ChannelStatistics, normalize};

/// Configuration of [`FrozenNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrozenNormConfig {
    /// Added to the variance. Default: 1e-5.
    pub epsilon: f64,
}

impl Default for FrozenNormConfig {
    fn default() -> Self {
        Self { epsilon: 1e-5 }
    }
}

impl FrozenNormConfig {
    /// A norm of `channels` channels with mean 0 and variance 1, to be filled from a checkpoint.
    pub fn init(&self, channels: usize, device: &Device) -> FrozenNorm {
        FrozenNorm {
            gamma: Initializer::Ones.init([channels], device),
            beta: Initializer::Zeros.init([channels], device),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            epsilon: self.epsilon,
        }
    }
}

/// `gamma * (y - running_mean) / sqrt(running_var + eps) + beta` in training and inference; gamma and beta train unless frozen as a stage.
#[derive(Module, Debug)]
pub struct FrozenNorm {
    /// Scale, `[C]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[C]`.
    pub beta: Param<Tensor<1>>,
    /// Mean, `[C]`: a buffer, so that `unfreeze` cannot make it train.
    pub running_mean: RunningState<Tensor<1>>,
    /// Variance, `[C]`.
    pub running_var: RunningState<Tensor<1>>,
    /// Added to the variance.
    pub epsilon: f64,
}

impl FrozenNorm {
    /// Normalises.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C]` to the same.
    pub fn forward(&self, y: FeatureMap) -> FeatureMap {
        let statistics = fixed_statistics(self.running_mean.value(), self.running_var.value(), self.epsilon);
        normalize(y, self.gamma.val(), self.beta.val(), statistics)
    }
}

/// Statistics that do not depend on the map, eps inside the root.
pub(super) fn fixed_statistics(mean: Tensor<1>, var: Tensor<1>, epsilon: f64) -> ChannelStatistics {
    let none = mean.zeros_like();
    ChannelStatistics { mean, inv_std: (var + epsilon).sqrt().recip(), slope: none.clone(), share: none }
}
