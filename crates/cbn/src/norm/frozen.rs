//! Normalisation by fixed statistics.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::buffer::Buffer;
use super::statistics::{Epsilon, EpsilonPlace, Running};
use crate::ops::normalize;
use crate::{Activation, FeatureMap};

/// Configuration of [`FrozenNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrozenNormConfig {
    /// Added to the variance or to the standard deviation. Default: 1e-5.
    pub epsilon: f64,
    /// To which. Default: inside the root, to the variance.
    pub epsilon_place: EpsilonPlace,
}

impl Default for FrozenNormConfig {
    fn default() -> Self {
        Self { epsilon: 1e-5, epsilon_place: EpsilonPlace::InsideRoot }
    }
}

impl FrozenNormConfig {
    /// A norm of `channels` channels with mean 0 and variance 1, to be filled from a checkpoint.
    pub fn init(&self, channels: usize, device: &Device) -> FrozenNorm {
        FrozenNorm {
            gamma: Initializer::Ones.init([channels], device),
            beta: Initializer::Zeros.init([channels], device),
            running_mean: Buffer::new(Tensor::zeros([channels], device)),
            running_var: Buffer::new(Tensor::ones([channels], device)),
            epsilon: self.epsilon,
            epsilon_place: self.epsilon_place,
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
    pub running_mean: Buffer<1>,
    /// Variance, `[C]`.
    pub running_var: Buffer<1>,
    /// Added to the variance or to the standard deviation.
    pub epsilon: f64,
    /// To which.
    #[module(skip)]
    pub epsilon_place: EpsilonPlace,
}

impl FrozenNorm {
    /// Normalises; the activation follows.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C]` to the same.
    pub fn forward(&self, y: FeatureMap, activation: Activation) -> FeatureMap {
        normalize(y, [self.gamma.val(), self.beta.val()], self.running().statistics(self.epsilon()), activation)
    }

    fn running(&self) -> Running<'_> {
        Running { mean: &self.running_mean, var: &self.running_var }
    }

    fn epsilon(&self) -> Epsilon {
        Epsilon { value: self.epsilon, place: self.epsilon_place }
    }

    /// Scale and shift of inference, `[C]` each.
    pub(super) fn inference_affine(&self) -> [Tensor<1>; 2] {
        self.running().affine(self.epsilon(), &self.gamma.val(), &self.beta.val())
    }
}
