//! A ResNet-18 written with Burn's layers, and what to change to train it with Cross-Iteration Batch Normalization:
//!
//! ```text
//! cargo run --release -p cbn --example convert_resnet
//! ```
//!
//! `Before` is the network as torchvision writes it, `After` the same with each convolution and its batch norm as one
//! `ConvNorm`, which CBN needs because it looks at the convolution's input and weight. The example converts a trained
//! `Before`, checks that both compute the same, and takes some steps with two images each.

// A command line prints.
#![allow(clippy::print_stdout, reason = "this is the terminal's side")]

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Tensor};
use cbn::{Activation, CbnConfig, ConvNorm, ConvertError, NormConfig};

const NUM_CLASSES: usize = 1000;
const SIDE_PX: usize = 64;

/// ResNet-18 in Burn's layers.
#[derive(Module, Debug)]
struct Before {
    conv1: Conv2d,
    bn1: BatchNorm,
    maxpool: MaxPool2d,
    layers: Vec<BlockBefore>,
    fc: Linear,
}

#[derive(Module, Debug)]
struct BlockBefore {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    downsample: Option<(Conv2d, BatchNorm)>,
}

/// The same with `ConvNorm`.
#[derive(Module, Debug)]
struct After {
    conv1: ConvNorm,
    maxpool: MaxPool2d,
    layers: Vec<BlockAfter>,
    fc: Linear,
}

#[derive(Module, Debug)]
struct BlockAfter {
    conv1: ConvNorm,
    conv2: ConvNorm,
    downsample: Option<ConvNorm>,
}

/// From `channels[0]` to `channels[1]` channels, padded so that stride 1 keeps the size.
fn conv_bn(channels: [usize; 2], kernel: usize, stride: usize, device: &Device) -> (Conv2d, BatchNorm) {
    let padding = kernel / 2;
    let conv = Conv2dConfig::new(channels, [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
        .with_bias(false)
        .init(device);
    (conv, BatchNormConfig::new(channels[1]).init(device))
}

impl Before {
    fn new(device: &Device) -> Self {
        let mut layers = Vec::new();
        let mut in_channels = 64;
        for out_channels in [64, 128, 256, 512] {
            for _ in 0..2 {
                let stride = out_channels / in_channels;
                let (conv1, bn1) = conv_bn([in_channels, out_channels], 3, stride, device);
                let (conv2, bn2) = conv_bn([out_channels, out_channels], 3, 1, device);
                let downsample = (stride != 1).then(|| conv_bn([in_channels, out_channels], 1, stride, device));
                layers.push(BlockBefore { conv1, bn1, conv2, bn2, downsample });
                in_channels = out_channels;
            }
        }
        let (conv1, bn1) = conv_bn([3, 64], 7, 2, device);
        let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
        let maxpool = MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padding).init();
        Self { conv1, bn1, maxpool, layers, fc: LinearConfig::new(512, NUM_CLASSES).init(device) }
    }

    /// `[B, 3, H, W]` to logits, `[B, 1000]`.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = relu(self.bn1.forward(self.conv1.forward(images)));
        let x = self.layers.iter().fold(self.maxpool.forward(x), |x, block| block.forward(x));
        self.fc.forward(pooled(x))
    }
}

impl BlockBefore {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = relu(self.bn1.forward(self.conv1.forward(x.clone())));
        let y = self.bn2.forward(self.conv2.forward(y));
        let shortcut = match &self.downsample {
            Some((conv, bn)) => bn.forward(conv.forward(x)),
            None => x,
        };
        relu(y + shortcut)
    }
}

impl After {
    fn convert(before: &Before, norm: &NormConfig) -> Result<Self, ConvertError> {
        let blocks = before.layers.iter().map(|block| BlockAfter::convert(block, norm));
        Ok(Self {
            conv1: with_relu(ConvNorm::from_conv_batch_norm(&before.conv1, &before.bn1, norm)?),
            maxpool: before.maxpool.clone(),
            layers: blocks.collect::<Result<_, _>>()?,
            fc: before.fc.clone(),
        })
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.conv1.forward_nchw(images);
        let x = self.layers.iter().fold(self.maxpool.forward(x), |x, block| block.forward(x));
        self.fc.forward(pooled(x))
    }
}

impl BlockAfter {
    fn convert(block: &BlockBefore, norm: &NormConfig) -> Result<Self, ConvertError> {
        let downsample = block.downsample.as_ref();
        Ok(Self {
            conv1: with_relu(ConvNorm::from_conv_batch_norm(&block.conv1, &block.bn1, norm)?),
            conv2: ConvNorm::from_conv_batch_norm(&block.conv2, &block.bn2, norm)?,
            downsample: downsample.map(|(conv, bn)| ConvNorm::from_conv_batch_norm(conv, bn, norm)).transpose()?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv2.forward_nchw(self.conv1.forward_nchw(x.clone()));
        let shortcut = match &self.downsample {
            Some(conv) => conv.forward_nchw(x),
            None => x,
        };
        relu(y + shortcut)
    }
}

fn with_relu(block: ConvNorm) -> ConvNorm {
    ConvNorm { activation: Activation::Relu, ..block }
}

/// The mean over all pixels, `[B, C]`.
fn pooled(x: Tensor<4>) -> Tensor<2> {
    x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)
}

fn images(device: &Device) -> Tensor<4> {
    Tensor::random([2, 3, SIDE_PX, SIDE_PX], Distribution::Normal(0.0, 1.0), device)
}

fn main() -> Result<(), ConvertError> {
    let device = Device::default().autodiff();
    device.seed(1);
    let before = Before::new(&device);
    // Stands for a training: fills the running statistics.
    for _ in 0..5 {
        before.forward(images(&device));
    }

    let after = After::convert(&before, &NormConfig::CrossIteration(CbnConfig::default()))?;
    let x = images(&Device::default());
    let expected = before.valid().forward(x.clone());
    let difference = (after.valid().forward(x) - expected.clone()).abs().max().into_scalar::<f32>();
    let error = difference / expected.abs().max().into_scalar::<f32>();
    println!("largest difference of the logits, relative to the largest: {error:.1e}");
    // Twenty convolutions in f32, each summed in another order.
    assert!(error < 1e-4, "the converted network computes something else");
    train(after, &device);
    Ok(())
}

/// Some steps on two images; from the second on, each is normalised by its own statistics and those of the steps before it.
fn train(mut model: After, device: &Device) {
    let (images, labels) = (images(device), Tensor::from_ints([3, 7], device));
    let loss = CrossEntropyLossConfig::new().init(device);
    let mut sgd = SgdConfig::new().init();
    for step in 1..=5 {
        let loss = loss.forward(model.forward(images.clone()), labels.clone());
        println!("step {step}: loss {:.4}", loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = sgd.step(0.002, model, gradients);
    }
}
