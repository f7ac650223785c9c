//! Cross-Iteration Batch Normalization.

mod history;

use burn::module::{Flag, Initializer, Module, Param, RunningState};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

pub use self::history::History;
use self::history::WindowMoments;
use super::ConvSite;
use super::batch::{follow, positions, unbiased};
use super::frozen::fixed_statistics;
use crate::FeatureMap;
use crate::ops::{ChannelStatistics, channel_moments, normalize};

/// Configuration of [`CrossIterationBatchNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CbnConfig {
    /// Iterations whose statistics count, the current one included. 1 is batch norm. Default: 4.
    pub window: usize,
    /// Training iterations at the start that use the current batch alone. Default: 0.
    pub burn_in_iterations: usize,
    /// Added to the variance, inside the root. Default: 1e-5.
    pub epsilon: f64,
    /// The weight of the current batch in the running statistics. Default: 0.1.
    pub momentum: f64,
}

impl Default for CbnConfig {
    fn default() -> Self {
        Self { window: 4, burn_in_iterations: 0, epsilon: 1e-5, momentum: 0.1 }
    }
}

impl CbnConfig {
    /// A norm behind a convolution whose weight is `[C_out, C_in / groups, kh, kw]`.
    ///
    /// # Panics
    ///
    /// If the window is 0.
    pub fn init(&self, weight_shape: [usize; 4], groups: usize, device: &Device) -> CrossIterationBatchNorm {
        assert!(self.window > 0, "a window counts the current iteration, so it is at least 1");
        let channels = weight_shape[0];
        CrossIterationBatchNorm {
            gamma: Initializer::Ones.init([channels], device),
            beta: Initializer::Zeros.init([channels], device),
            training: Param::from_bool(true),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            iteration: RunningState::new(Tensor::zeros([1], device)),
            history: History::new(self.window - 1, weight_shape, groups, device),
            burn_in_iterations: self.burn_in_iterations,
            epsilon: self.epsilon,
            momentum: self.momentum,
        }
    }
}

/// Batch norm whose statistics span the last iterations, each corrected for the change of the weight since
/// ([Yao et al., CVPR 2021](https://arxiv.org/abs/2002.05712)).
///
/// ```text
/// mu = (1 / n) * sum_s mu_s(w)      mu_s(w) = pbar_s . w
/// nu = (1 / n) * sum_s nu_s(w)      nu_s(w) = nu_s + G_s . (w - w_s) = G_s . w - nu_s
/// out = gamma * (y - mu) / sqrt(nu - mu^2 + eps) + beta
/// ```
///
/// `pbar_s` is the mean input patch of iteration s and `G_s` the gradient of its second moment, so old weights are not kept (docs/cbn.md).
/// Past iterations with `nu_s(w) < mu_s(w)^2` in a channel do not count there; `n` counts those that do, the current one included.
/// Gradients flow through the current iteration's moments only, as in the paper. The running variance is unbiased and of the
/// current iteration.
#[derive(Module, Debug)]
pub struct CrossIterationBatchNorm {
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
    /// Training iterations seen, `[1]`.
    pub iteration: RunningState<Tensor<1>>,
    /// The past iterations of the window.
    pub history: History,
    /// Training iterations that use the current batch alone.
    pub burn_in_iterations: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// The weight of the current batch in the running statistics.
    pub momentum: f64,
}

impl CrossIterationBatchNorm {
    /// Normalises: by the window's statistics on a training device, else by the running ones.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C]` to the same.
    pub fn forward(&self, y: FeatureMap, site: &ConvSite<'_>) -> FeatureMap {
        if !(y.device().is_autodiff() && self.training.is_enabled()) {
            let statistics = fixed_statistics(self.running_mean.value(), self.running_var.value(), self.epsilon);
            return normalize(y, self.gamma.val(), self.beta.val(), statistics);
        }
        let output = y.nhwc().clone().inner();
        let [mean, second] = channel_moments(output.clone());
        self.update_running(&mean, &second, positions(&y));

        let window = if self.is_burning_in() {
            WindowMoments::of_current(mean, second)
        } else {
            let weight = site.weight.clone().inner();
            let window = self.history.aggregate(mean, second.clone(), &weight);
            self.history.push(site, output, second);
            window
        };
        normalize(y, self.gamma.val(), self.beta.val(), self.statistics(window))
    }

    /// Counts this iteration, and says whether it is one of the burn-in.
    fn is_burning_in(&self) -> bool {
        let seen = self.iteration.value_sync() + 1.0;
        self.iteration.update(seen.clone());
        seen.into_scalar::<f32>() <= self.burn_in_iterations as f32
    }

    fn update_running(&self, mean: &Tensor<1>, second: &Tensor<1>, count: usize) {
        let var = unbiased((second.clone() - mean.clone().square()).clamp_min(0.0), count);
        for (state, current) in [(&self.running_mean, mean.clone()), (&self.running_var, var)] {
            let updated = follow(state.value_sync().inner(), current, self.momentum);
            state.update(Tensor::from_inner(updated));
        }
    }

    fn statistics(&self, window: WindowMoments) -> ChannelStatistics {
        let WindowMoments { mean, second, share } = window;
        let var = (second - mean.clone().square()).clamp_min(0.0);
        let inv_std = (var + self.epsilon).sqrt().recip();
        let slope = inv_std.clone().powi_scalar(3) * -0.5;
        ChannelStatistics { mean, inv_std, slope, share }.on_training_device()
    }
}
