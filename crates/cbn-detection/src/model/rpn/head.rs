use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use cbn::{Conv, ConvConfig, FeatureMap};

use crate::{
    model::{config::RpnConfig, host, init},
    structures::Pyramid,
};

/// 3x3 convolutions with ReLU, then two 1x1 convolutions side by side, the same on every level. There is no norm by design.
#[derive(Module, Debug)]
pub struct RpnHead {
    /// 3x3, as many channels out as in; one but for torchvision's `_v2` models.
    pub convs: Vec<Conv>,
    /// One logit per anchor.
    pub objectness: Conv,
    /// Four deltas per anchor, those of an anchor side by side.
    pub deltas: Conv,
}

/// What the head says about every anchor of a batch, all levels one after the other.
///
/// Within a level: rows, then columns, then the anchors of a position.
#[derive(Clone, Debug)]
pub struct RpnPredictions {
    /// Logits, `[B, N]`.
    pub objectness: Tensor<2>,
    /// `[B, N, 4]`.
    pub deltas: Tensor<3>,
    /// Anchors of each level; their sum is N.
    pub level_lens: Vec<usize>,
}

impl RpnPredictions {
    /// Objectness and deltas in memory order, without gradient. This waits for the device.
    pub(super) fn to_host(&self) -> (Vec<f32>, Vec<f32>) {
        (host::read(self.objectness.clone()), host::read(self.deltas.clone()))
    }
}

impl RpnHead {
    pub(super) fn init(channels: usize, config: &RpnConfig, device: &Device) -> Self {
        let num_anchors = config.anchors.num_per_position();
        let conv = |out_channels: usize, side: usize| {
            ConvConfig::new([channels, out_channels], [side, side])
                .with_padding([side / 2, side / 2])
                .with_initializer(init::normal(0.01))
                .init(device)
        };
        Self {
            convs: (0..config.num_convs).map(|_| conv(channels, 3)).collect(),
            objectness: conv(num_anchors, 1),
            deltas: conv(num_anchors * 4, 1),
        }
    }

    /// Predictions for all levels.
    pub fn forward(&self, pyramid: &Pyramid) -> RpnPredictions {
        let (mut objectness, mut deltas, mut level_lens) = (Vec::new(), Vec::new(), Vec::new());
        for level in &pyramid.levels {
            let (level_objectness, level_deltas) = self.forward_level(level);
            let [batch, height, width, num_anchors] = level_objectness.dims();
            let len = height * width * num_anchors;
            objectness.push(level_objectness.into_nhwc().reshape([batch, len]));
            deltas.push(level_deltas.into_nhwc().reshape([batch, len, 4]));
            level_lens.push(len);
        }
        RpnPredictions { objectness: Tensor::cat(objectness, 1), deltas: Tensor::cat(deltas, 1), level_lens }
    }

    fn forward_level(&self, level: &FeatureMap) -> (FeatureMap, FeatureMap) {
        let x = self.convs.iter().fold(level.clone(), |x, conv| conv.forward_relu(&x));
        (self.objectness.forward(&x), self.deltas.forward(&x))
    }
}
