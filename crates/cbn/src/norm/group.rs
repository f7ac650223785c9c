//! Group norm.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::ops::group_normalize;
use crate::{Activation, FeatureMap};

/// Configuration of [`GroupNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupNormConfig {
    /// Channels are split into so many groups.
    pub groups: usize,
    /// Added to the variance. Default: 1e-5.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
}

fn default_epsilon() -> f64 {
    1e-5
}

impl GroupNormConfig {
    /// So many groups, eps 1e-5.
    pub fn new(groups: usize) -> Self {
        Self { groups, epsilon: default_epsilon() }
    }

    /// A norm of `channels` channels: gamma 1, beta 0.
    ///
    /// # Panics
    ///
    /// If the groups do not divide the channels.
    pub fn init(&self, channels: usize, device: &Device) -> GroupNorm {
        let groups = self.groups;
        assert!(groups > 0 && channels.is_multiple_of(groups), "{channels} channels do not split into {groups} groups");
        GroupNorm {
            gamma: Initializer::Ones.init([channels], device),
            beta: Initializer::Zeros.init([channels], device),
            groups,
            epsilon: self.epsilon,
        }
    }
}

/// `gamma * (y - mean) / sqrt(var + eps) + beta` over each image and group of channels ([Wu and He](https://arxiv.org/abs/1803.08494)).
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// Scale, `[C]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[C]`.
    pub beta: Param<Tensor<1>>,
    /// Groups of channels.
    pub groups: usize,
    /// Added to the biased variance.
    pub epsilon: f64,
}

impl GroupNorm {
    /// Normalises, in training and inference alike; the activation follows.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C]` to the same.
    pub fn forward(&self, y: FeatureMap, activation: Activation) -> FeatureMap {
        group_normalize(y, [self.gamma.val(), self.beta.val()], self.groups, self.epsilon, activation)
    }
}
