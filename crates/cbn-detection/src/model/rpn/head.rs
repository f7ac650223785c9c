use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use cbn::{
    Activation, Conv, ConvConfig, FeatureMap,
    ops::{BlockTail, PackedWeightCache, conv_block},
};

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
    /// For each level, for each of its P positions, A logits and then the anchors' deltas: `[B, P, 5 A]`.
    levels: Vec<Tensor<3>>,
    /// Anchors of each level; their sum is N.
    pub level_lens: Vec<usize>,
}

impl RpnPredictions {
    /// Logits, `[B, N]`.
    pub fn objectness(&self) -> Tensor<2> {
        let logits = |level: &Tensor<3>| {
            let [batch, positions, values] = level.dims();
            let num_anchors = values / 5;
            level.clone().narrow(2, 0, num_anchors).reshape([batch, positions * num_anchors])
        };
        Tensor::cat(self.levels.iter().map(logits).collect(), 1)
    }

    /// `[B, N, 4]`.
    pub fn deltas(&self) -> Tensor<3> {
        let deltas = |level: &Tensor<3>| {
            let [batch, positions, values] = level.dims();
            let num_anchors = values / 5;
            level.clone().narrow(2, num_anchors, 4 * num_anchors).reshape([batch, positions * num_anchors, 4])
        };
        Tensor::cat(self.levels.iter().map(deltas).collect(), 1)
    }

    /// Objectness and deltas in memory order, without gradient. This waits for the device.
    pub(super) fn to_host(&self) -> (Vec<f32>, Vec<f32>) {
        let batch = self.levels.first().map_or(0, |level| level.dims()[0]);
        let num_logits = batch * self.level_lens.iter().sum::<usize>();
        let (mut objectness, mut deltas) = (Vec::with_capacity(num_logits), Vec::with_capacity(4 * num_logits));
        let levels: Vec<(Vec<f32>, usize)> =
            self.levels.iter().map(|level| (host::read(level.clone()), level.dims()[2])).collect();
        for image in 0..batch {
            for (values, width) in &levels {
                let of_image = values.len() / batch;
                for position in values[image * of_image..][..of_image].chunks_exact(*width) {
                    let (logits, of_anchors) = position.split_at(width / 5);
                    objectness.extend_from_slice(logits);
                    deltas.extend_from_slice(of_anchors);
                }
            }
        }
        (objectness, deltas)
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
        // One convolution: what it reads is large, what it writes is small.
        let weight = Tensor::cat(vec![self.objectness.weight.val(), self.deltas.weight.val()], 0);
        let bias = Tensor::cat(vec![self.objectness.bias.val(), self.deltas.bias.val()], 0);
        let packed = PackedWeightCache::default();
        let predict = |level: &FeatureMap| {
            let x = self.convs.iter().fold(level.clone(), |x, conv| conv.forward_relu(&x));
            let affine = [bias.ones_like().detach(), bias.clone()];
            let tail = BlockTail { affine, residual: None, activation: Activation::None };
            let y = conv_block(&x, &weight, &self.objectness.geometry, tail, &packed);
            let [batch, height, width, values] = y.dims();
            y.into_nhwc().reshape([batch, height * width, values])
        };
        let levels: Vec<Tensor<3>> = pyramid.levels.iter().map(predict).collect();
        let num_anchors = self.objectness.bias.dims()[0];
        let level_lens = levels.iter().map(|level| level.dims()[1] * num_anchors).collect();
        RpnPredictions { levels, level_lens }
    }
}
