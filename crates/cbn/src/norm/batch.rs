//! Batch norm, by PyTorch's definitions.

use burn::module::{Flag, Initializer, Module, Param, RunningState};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::frozen::fixed_statistics;
use crate::FeatureMap;
use crate::ops::{ChannelStatistics, channel_moments, normalize};

/// Configuration of [`BatchNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchNormConfig {
    /// Added to the variance. Default: 1e-5.
    pub epsilon: f64,
    /// The weight of the current batch in the running statistics. Default: 0.1.
    pub momentum: f64,
}

impl Default for BatchNormConfig {
    fn default() -> Self {
        Self { epsilon: 1e-5, momentum: 0.1 }
    }
}

impl BatchNormConfig {
    /// A norm of `channels` channels: gamma 1, beta 0, running mean 0 and variance 1.
    pub fn init(&self, channels: usize, device: &Device) -> BatchNorm {
        BatchNorm {
            gamma: Initializer::Ones.init([channels], device),
            beta: Initializer::Zeros.init([channels], device),
            training: Param::from_bool(true),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            epsilon: self.epsilon,
            momentum: self.momentum,
        }
    }
}

/// `gamma * (y - mean) / sqrt(var + eps) + beta` over B, H and W ([Ioffe and Szegedy](https://arxiv.org/abs/1502.03167)).
///
/// The batch is normalised by its biased variance; the running variance is the unbiased one, as PyTorch's is.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Scale, `[C]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[C]`.
    pub beta: Param<Tensor<1>>,
    /// Off where the layer was frozen: it then uses the running statistics.
    pub training: Param<Flag>,
    /// Running mean, `[C]`.
    pub running_mean: RunningState<Tensor<1>>,
    /// Running unbiased variance, `[C]`.
    pub running_var: RunningState<Tensor<1>>,
    /// Added to the variance.
    pub epsilon: f64,
    /// The weight of the current batch in the running statistics.
    pub momentum: f64,
}

impl BatchNorm {
    /// Normalises: by the batch's statistics on a training device, else by the running ones.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C]` to the same.
    pub fn forward(&self, y: FeatureMap) -> FeatureMap {
        if !(y.device().is_autodiff() && self.training.is_enabled()) {
            let statistics = fixed_statistics(self.running_mean.value(), self.running_var.value(), self.epsilon);
            return normalize(y, self.gamma.val(), self.beta.val(), statistics);
        }
        let [mean, second] = channel_moments(y.nhwc().clone().inner());
        let var = (second - mean.clone().square()).clamp_min(0.0);
        self.update_running(mean.clone(), unbiased(var.clone(), positions(&y)));
        let inv_std = (var + self.epsilon).sqrt().recip();
        let slope = inv_std.clone().powi_scalar(3) * -0.5;
        let share = mean.ones_like();
        let statistics = ChannelStatistics { mean, inv_std, slope, share }.on_training_device();
        normalize(y, self.gamma.val(), self.beta.val(), statistics)
    }

    fn update_running(&self, mean: Tensor<1>, var: Tensor<1>) {
        for (state, current) in [(&self.running_mean, mean), (&self.running_var, var)] {
            let updated = follow(state.value_sync().inner(), current, self.momentum);
            state.update(Tensor::from_inner(updated));
        }
    }
}

/// How many values a channel has.
pub(super) fn positions(y: &FeatureMap) -> usize {
    let [batch, height, width, _] = y.dims();
    batch * height * width
}

/// The unbiased estimate from a biased variance of `count` values; of a single value there is none, so it is kept.
pub(super) fn unbiased(var: Tensor<1>, count: usize) -> Tensor<1> {
    if count > 1 { var * (count as f64 / (count - 1) as f64) } else { var }
}

/// A running statistic after one more observation.
pub(super) fn follow(running: Tensor<1>, current: Tensor<1>, momentum: f64) -> Tensor<1> {
    running * (1.0 - momentum) + current * momentum
}
