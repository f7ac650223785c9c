//! A fully connected layer.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::Activation;
use crate::ops::{PackedWeightCache, linear};

/// Configuration of [`Linear`].
#[derive(Clone, Debug)]
pub struct LinearConfig {
    features: [usize; 2],
    initializer: Initializer,
}

impl LinearConfig {
    /// From `[D_in, D_out]` features, with weights drawn by `initializer`, bias 0.
    pub fn new(features: [usize; 2], initializer: Initializer) -> Self {
        Self { features, initializer }
    }

    /// Makes the layer.
    pub fn init(&self, device: &Device) -> Linear {
        let [inputs, outputs] = self.features;
        Linear {
            weight: self.initializer.init_with(self.features, Some(inputs), Some(outputs), device),
            bias: Initializer::Zeros.init([outputs], device),
            packed: PackedWeightCache::default(),
        }
    }
}

/// `x W + b`, in inference with the weight kept in the kernels' order.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[D_in, D_out]`, as in Burn's layer of this name.
    pub weight: Param<Tensor<2>>,
    /// `[D_out]`.
    pub bias: Param<Tensor<1>>,
    /// The weight as the kernels of inference read it.
    #[module(skip)]
    pub packed: PackedWeightCache,
}

impl Linear {
    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// `[N, D_in]` to `[N, D_out]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.run(x, Activation::None)
    }

    /// `max(x W + b, 0)`.
    ///
    /// # Shapes
    ///
    /// `[N, D_in]` to `[N, D_out]`
    pub fn forward_relu(&self, x: Tensor<2>) -> Tensor<2> {
        self.run(x, Activation::Relu)
    }

    fn run(&self, x: Tensor<2>, activation: Activation) -> Tensor<2> {
        linear(x, (self.weight.val(), self.bias.val()), activation, &self.packed)
    }
}
