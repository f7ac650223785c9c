use burn::{module::Module, tensor::Device};
use cbn::{Activation, ConvNorm, ConvNormConfig, FeatureMap, NormConfig, ops::max_pool2d};

use crate::model::{
    config::{ResNetConfig, ResNetDepth},
    init,
};

/// Channels of the stem.
const STEM_CHANNELS: usize = 64;

impl ResNetDepth {
    /// Residual blocks of each stage.
    const fn num_blocks(self) -> [usize; 4] {
        match self {
            Self::R18 => [2, 2, 2, 2],
            Self::R34 | Self::R50 => [3, 4, 6, 3],
            Self::R101 => [3, 4, 23, 3],
        }
    }

    /// Output channels of a block over its inner channels: 4 for bottlenecks.
    const fn expansion(self) -> usize {
        match self {
            Self::R18 | Self::R34 => 1,
            Self::R50 | Self::R101 => 4,
        }
    }

    /// Channels of C2, C3, C4, C5.
    pub const fn out_channels(self) -> [usize; 4] {
        let expansion = self.expansion();
        [64 * expansion, 128 * expansion, 256 * expansion, 512 * expansion]
    }
}

/// ResNet without classifier ([He et al. 2015](https://arxiv.org/abs/1512.03385)), PyTorch's variant: a bottleneck that
/// halves the resolution does so in its 3x3 convolution, unless configured otherwise.
///
/// Every convolution is followed by the configured norm.
#[derive(Module, Debug)]
pub struct ResNet {
    /// 7x7 convolution, stride 2.
    pub stem: ConvNorm,
    /// Four stages of residual blocks.
    pub stages: Vec<Vec<ResidualBlock>>,
}

impl ResNetConfig {
    /// A network with random weights.
    pub fn init(&self, device: &Device) -> ResNet {
        let stem = ConvNormConfig::new([3, STEM_CHANNELS], [7, 7])
            .with_stride([2, 2])
            .with_padding([3, 3])
            .with_norm(self.norm.clone())
            .with_activation(Activation::Relu)
            .with_initializer(init::kaiming_fan_out())
            .init(device);
        let mut in_channels = STEM_CHANNELS;
        let mut stages = Vec::new();
        for (stage, num_blocks) in self.depth.num_blocks().into_iter().enumerate() {
            let out_channels = self.depth.out_channels()[stage];
            let mut blocks = Vec::new();
            for block in 0..num_blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let expansion = self.depth.expansion();
                let shape =
                    BlockShape { in_channels, out_channels, expansion, stride, stride_in_1x1: self.stride_in_1x1 };
                blocks.push(shape.init(&self.norm, device));
                in_channels = out_channels;
            }
            stages.push(blocks);
        }
        ResNet { stem, stages }.freeze_stages(self.frozen_stages)
    }
}

impl ResNet {
    /// C2 to C5, at a quarter to a thirty-second of the resolution.
    ///
    /// # Shapes
    ///
    /// - `images`: `[B, H, W, 3]`
    /// - output: `[B, H / s, W / s, C]` with s of 4, 8, 16, 32, quotients rounded up
    pub fn forward(&self, images: &FeatureMap) -> Vec<FeatureMap> {
        let mut x = max_pool2d(&self.stem.forward(images), 3, 2, 1);
        let mut outputs = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            for block in stage {
                x = block.forward(x);
            }
            outputs.push(x.clone());
        }
        outputs
    }

    /// Whether bottlenecks halve the resolution in their first convolution; none if there are no bottlenecks.
    pub(in crate::model) fn has_stride_in_1x1(&self) -> Option<bool> {
        let block = self.stages.get(1)?.first()?;
        (block.convs.len() == 3).then(|| block.convs[0].geometry.stride != [1, 1])
    }

    fn freeze_stages(mut self, num_stages: usize) -> Self {
        if num_stages > 0 {
            self.stem = self.stem.freeze();
        }
        self.stages = self
            .stages
            .into_iter()
            .enumerate()
            .map(|(stage, blocks)| if stage < num_stages { blocks.freeze() } else { blocks })
            .collect();
        self
    }
}

/// `relu(convs(x) + shortcut(x))`: two 3x3 convolutions (basic block), or 1x1, 3x3, 1x1 (bottleneck).
#[derive(Module, Debug)]
pub struct ResidualBlock {
    /// The ReLU of the last one follows the sum.
    pub convs: Vec<ConvNorm>,
    /// 1x1 convolution where resolution or channels change, else the identity.
    pub shortcut: Option<ConvNorm>,
}

impl ResidualBlock {
    fn forward(&self, x: FeatureMap) -> FeatureMap {
        let shortcut = self.shortcut.as_ref().map_or_else(|| x.clone(), |conv| conv.forward(&x));
        let (last, convs) = self.convs.split_last().expect("a block has two or three convolutions");
        let y = convs.iter().fold(x, |y, conv| conv.forward(&y));
        last.forward_add(&y, &shortcut)
    }
}

struct BlockShape {
    in_channels: usize,
    out_channels: usize,
    expansion: usize,
    stride: usize,
    stride_in_1x1: bool,
}

impl BlockShape {
    fn init(&self, norm: &NormConfig, device: &Device) -> ResidualBlock {
        let conv = |channels: [usize; 2], side: usize, stride: usize, activation: Activation| {
            ConvNormConfig::new(channels, [side, side])
                .with_stride([stride, stride])
                .with_padding([side / 2, side / 2])
                .with_norm(norm.clone())
                .with_activation(activation)
                .with_initializer(init::kaiming_fan_out())
                .init(device)
        };
        let inner = self.out_channels / self.expansion;
        let convs = if self.expansion == 1 {
            vec![
                conv([self.in_channels, inner], 3, self.stride, Activation::Relu),
                conv([inner, self.out_channels], 3, 1, Activation::Relu),
            ]
        } else {
            let strides = if self.stride_in_1x1 { [self.stride, 1] } else { [1, self.stride] };
            vec![
                conv([self.in_channels, inner], 1, strides[0], Activation::Relu),
                conv([inner, inner], 3, strides[1], Activation::Relu),
                conv([inner, self.out_channels], 1, 1, Activation::Relu),
            ]
        };
        let changes = self.stride != 1 || self.in_channels != self.out_channels;
        let shortcut = changes.then(|| conv([self.in_channels, self.out_channels], 1, self.stride, Activation::None));
        ResidualBlock { convs, shortcut }
    }
}
