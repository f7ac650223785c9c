//! ResNet-20 for 32 x 32 images.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use cbn::{Activation, ConvNorm, ConvNormConfig, FeatureMap, NormConfig};

const NUM_CLASSES: usize = 10;
const STAGE_CHANNELS: [usize; 3] = [16, 32, 64];
const BLOCKS_PER_STAGE: usize = 3;

/// ResNet-20 ([He et al. 2015](https://arxiv.org/abs/1512.03385), section 4.2), with a 1x1 convolution and a norm as the shortcut
/// wherever the shape changes (the paper's option B; its CIFAR networks pad with zeros).
#[derive(Module, Debug)]
pub struct ResNet20 {
    stem: ConvNorm,
    blocks: Vec<Block>,
    classifier: Linear,
}

impl ResNet20 {
    /// With random weights.
    pub fn new(norm: &NormConfig, device: &Device) -> Self {
        let stem = conv_norm([3, STAGE_CHANNELS[0]], 3, 1, norm).with_activation(Activation::Relu).init(device);
        let mut blocks = Vec::new();
        let mut in_channels = STAGE_CHANNELS[0];
        for out_channels in STAGE_CHANNELS {
            for _ in 0..BLOCKS_PER_STAGE {
                blocks.push(Block::new([in_channels, out_channels], norm, device));
                in_channels = out_channels;
            }
        }
        Self { stem, blocks, classifier: LinearConfig::new(in_channels, NUM_CLASSES).init(device) }
    }

    /// `[B, 3, 32, 32]` to logits, `[B, 10]`. Maps are channels-last in between: one permutation of the images instead of two
    /// around every convolution.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut x = self.stem.forward(&FeatureMap::from_nchw(images));
        for block in &self.blocks {
            x = block.forward(x);
        }
        let [batch, height, width, channels] = x.dims();
        let pooled = x.into_nhwc().reshape([batch, height * width, channels]).mean_dim(1).squeeze_dim(1);
        self.classifier.forward(pooled)
    }
}

/// `relu(second(first(x)) + shortcut(x))`.
#[derive(Module, Debug)]
struct Block {
    first: ConvNorm,
    second: ConvNorm,
    shortcut: Option<ConvNorm>,
}

impl Block {
    /// Twice the channels at half the resolution, or neither.
    fn new([in_channels, out_channels]: [usize; 2], norm: &NormConfig, device: &Device) -> Self {
        let stride = out_channels / in_channels;
        let first = conv_norm([in_channels, out_channels], 3, stride, norm).with_activation(Activation::Relu);
        let second = conv_norm([out_channels, out_channels], 3, 1, norm);
        let shortcut = (stride != 1).then(|| conv_norm([in_channels, out_channels], 1, stride, norm).init(device));
        Self { first: first.init(device), second: second.init(device), shortcut }
    }

    fn forward(&self, x: FeatureMap) -> FeatureMap {
        let y = self.second.forward(&self.first.forward(&x));
        let shortcut = match &self.shortcut {
            Some(conv) => conv.forward(&x),
            None => x,
        };
        y.add(shortcut).relu()
    }
}

fn conv_norm(channels: [usize; 2], kernel: usize, stride: usize, norm: &NormConfig) -> ConvNormConfig {
    ConvNormConfig::new(channels, [kernel; 2])
        .with_stride([stride; 2])
        .with_padding([kernel / 2; 2])
        .with_norm(norm.clone())
}
