//! Normalisation by fixed statistics.

use burn::module::{Initializer, Module, Param};
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
            running_mean: Initializer::Zeros.init([channels], device).set_require_grad(false),
            running_var: Initializer::Ones.init([channels], device).set_require_grad(false),
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
    /// Mean, `[C]`; never trained.
    pub running_mean: Param<Tensor<1>>,
    /// Variance, `[C]`; never trained.
    pub running_var: Param<Tensor<1>>,
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
        let statistics = fixed_statistics(self.running_mean.val(), self.running_var.val(), self.epsilon);
        normalize(y, self.gamma.val(), self.beta.val(), statistics)
    }
}

/// Statistics that do not depend on the map, eps inside the root.
pub(super) fn fixed_statistics(mean: Tensor<1>, var: Tensor<1>, epsilon: f64) -> ChannelStatistics {
    let none = mean.zeros_like();
    ChannelStatistics { mean, inv_std: (var + epsilon).sqrt().recip(), slope: none.clone(), share: none }
}
