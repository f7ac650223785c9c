//! Batch norm, by PyTorch's definitions, over the batch of one process or of several.

use burn::module::{Flag, Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::buffer::Buffer;
use super::statistics::{Epsilon, Moments, Running, unbiased_correction};
use crate::ops::{ChannelStatistics, normalize};
use crate::process_group::Peers;
use crate::{Activation, FeatureMap};

/// Configuration of [`BatchNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchNormConfig {
    /// Added to the variance. Default: 1e-5.
    pub epsilon: f64,
    /// The weight of the current batch in the running statistics. Default: 0.1.
    pub momentum: f64,
    /// The processes whose maps are one batch. No part of a file: see [`NormConfig::among`](super::NormConfig::among). Default: this one alone.
    #[serde(skip)]
    pub peers: Peers,
}

impl Default for BatchNormConfig {
    fn default() -> Self {
        Self { epsilon: 1e-5, momentum: 0.1, peers: Peers::default() }
    }
}

impl BatchNormConfig {
    /// A norm of `channels` channels: gamma 1, beta 0, running mean 0 and variance 1.
    pub fn init(&self, channels: usize, device: &Device) -> BatchNorm {
        BatchNorm {
            gamma: Initializer::Ones.init([channels], device),
            beta: Initializer::Zeros.init([channels], device),
            training: Param::from_bool(true),
            running_mean: Buffer::new(Tensor::zeros([channels], device)),
            running_var: Buffer::new(Tensor::ones([channels], device)),
            epsilon: self.epsilon,
            momentum: self.momentum,
            peers: self.peers.clone(),
        }
    }
}

/// `gamma * (y - mean) / sqrt(var + eps) + beta` over B, H and W ([Ioffe and Szegedy](https://arxiv.org/abs/1502.03167)).
///
/// The batch is normalised by its biased variance; the running variance is the unbiased one, as PyTorch's is. With peers it is the batch of all
/// of them: sums, sums of squares and counts are added up in the forward and the backward pass, so that batches may differ in size
/// (SyncBN, [Peng et al. 2018](https://arxiv.org/abs/1711.07240)). The gradients of gamma and beta are this process's part of the sum.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Scale, `[C]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[C]`.
    pub beta: Param<Tensor<1>>,
    /// Off where the layer was frozen: it then uses the running statistics.
    pub training: Param<Flag>,
    /// Running mean, `[C]`.
    pub running_mean: Buffer<1>,
    /// Running unbiased variance, `[C]`.
    pub running_var: Buffer<1>,
    /// Added to the variance.
    pub epsilon: f64,
    /// The weight of the current batch in the running statistics.
    pub momentum: f64,
    /// The processes whose maps are one batch.
    #[module(skip)]
    pub peers: Peers,
}

impl BatchNorm {
    /// Normalises, by the batch's statistics on a training device, else by the running ones; the activation follows. A batch without a
    /// position anywhere is no observation.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C]` to the same.
    pub fn forward(&self, y: FeatureMap, activation: Activation) -> FeatureMap {
        let epsilon = Epsilon::inside(self.epsilon);
        let affine = [self.gamma.val(), self.beta.val()];
        if !self.has_batch_statistics(&y.device()) {
            return normalize(y, affine, self.running().statistics(epsilon), activation);
        }
        let (moments, positions) = Moments::over(&y, &self.peers);
        if positions == 0 {
            return y;
        }
        let unbiased = moments.var.clone() * unbiased_correction(positions);
        self.running().observe(moments.mean.clone(), unbiased, self.momentum);
        let share = moments.mean.ones_like();
        let statistics = ChannelStatistics { peers: self.peers.clone(), ..moments.statistics(epsilon, share, 1.0) };
        normalize(y, affine, statistics, activation)
    }

    /// Whether it normalises a map on this device by the map's own statistics.
    pub(super) fn has_batch_statistics(&self, device: &Device) -> bool {
        device.is_autodiff() && self.training.is_enabled()
    }

    fn running(&self) -> Running<'_> {
        Running { mean: &self.running_mean, var: &self.running_var }
    }

    /// Scale and shift of inference, `[C]` each.
    pub(super) fn inference_affine(&self) -> [Tensor<1>; 2] {
        self.running().affine(Epsilon::inside(self.epsilon), &self.gamma.val(), &self.beta.val())
    }
}
