//! A convolution that no norm follows by design.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::ops::{BlockTail, PackedWeightCache, conv_block};
use crate::{Activation, ConvGeometry, FeatureMap};

/// Configuration of [`Conv`].
#[derive(Clone, Debug)]
pub struct ConvConfig {
    channels: [usize; 2],
    kernel: [usize; 2],
    geometry: ConvGeometry,
    initializer: Initializer,
}

impl ConvConfig {
    /// From `[C_in, C_out]` channels with a `[kh, kw]` kernel: stride 1, no padding, Kaiming-normal weights by fan-out, bias 0.
    pub fn new(channels: [usize; 2], kernel: [usize; 2]) -> Self {
        let initializer = Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2, fan_out_only: true };
        Self { channels, kernel, geometry: ConvGeometry::default(), initializer }
    }

    /// Step between output positions.
    #[must_use]
    pub fn with_stride(mut self, stride: [usize; 2]) -> Self {
        self.geometry.stride = stride;
        self
    }

    /// Zeros around the input.
    #[must_use]
    pub fn with_padding(mut self, padding: [usize; 2]) -> Self {
        self.geometry.padding = padding;
        self
    }

    /// How weights start.
    #[must_use]
    pub fn with_initializer(mut self, initializer: Initializer) -> Self {
        self.initializer = initializer;
        self
    }

    /// Makes the convolution.
    pub fn init(&self, device: &Device) -> Conv {
        let [in_channels, out_channels] = self.channels;
        let [kernel_height, kernel_width] = self.kernel;
        let taps = kernel_height * kernel_width;
        Conv {
            weight: self.initializer.init_with(
                [out_channels, in_channels, kernel_height, kernel_width],
                Some(in_channels * taps),
                Some(out_channels * taps),
                device,
            ),
            bias: Initializer::Zeros.init([out_channels], device),
            geometry: self.geometry,
            packed: PackedWeightCache::default(),
        }
    }
}

/// A convolution with a bias: the head of a region proposal network, a predictor.
#[derive(Module, Debug)]
pub struct Conv {
    /// `[C_out, C_in, kh, kw]`.
    pub weight: Param<Tensor<4>>,
    /// `[C_out]`.
    pub bias: Param<Tensor<1>>,
    /// How the convolution walks.
    #[module(skip)]
    pub geometry: ConvGeometry,
    /// The weight as the kernels of inference read it.
    #[module(skip)]
    pub packed: PackedWeightCache,
}

impl Conv {
    /// Applies the convolution.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C_in]` to `[B, H', W', C_out]`
    pub fn forward(&self, x: &FeatureMap) -> FeatureMap {
        self.run(x, Activation::None)
    }

    /// `max(conv(x), 0)`.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C_in]` to `[B, H', W', C_out]`
    pub fn forward_relu(&self, x: &FeatureMap) -> FeatureMap {
        self.run(x, Activation::Relu)
    }

    fn run(&self, x: &FeatureMap, activation: Activation) -> FeatureMap {
        let bias = self.bias.val();
        let affine = [bias.ones_like().detach(), bias];
        let tail = BlockTail { affine, residual: None, activation };
        conv_block(x, &self.weight.val(), &self.geometry, tail, &self.packed)
    }
}
