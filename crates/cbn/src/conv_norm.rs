//! Convolution, norm and activation in one block.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::norm::{ConvSite, Identity, Norm, NormConfig};
use crate::ops::{self, PackedWeightCache, SecondGradientCell};
use crate::{Activation, ConvGeometry, FeatureMap};

/// Configuration of [`ConvNorm`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use cbn::{Activation, CbnConfig, ConvNormConfig, FeatureMap, NormConfig};
///
/// let block = ConvNormConfig::new([64, 128], [3, 3])
///     .with_stride([2, 2])
///     .with_padding([1, 1])
///     .with_norm(NormConfig::CrossIteration(CbnConfig::default()))
///     .with_activation(Activation::Relu)
///     .init(&Device::flex());
/// let x = FeatureMap::from_nhwc(Tensor::zeros([1, 8, 10, 64], &Device::flex()));
/// assert_eq!(block.forward(&x).dims(), [1, 4, 5, 128]);
/// ```
#[derive(Clone, Debug)]
pub struct ConvNormConfig {
    channels: [usize; 2],
    kernel: [usize; 2],
    geometry: ConvGeometry,
    norm: NormConfig,
    activation: Activation,
    initializer: Initializer,
}

impl ConvNormConfig {
    /// From `[C_in, C_out]` channels with a `[kh, kw]` kernel: stride 1, no padding, no norm, no activation, Kaiming-normal
    /// weights by fan-out with the gain of a ReLU.
    pub fn new(channels: [usize; 2], kernel: [usize; 2]) -> Self {
        Self {
            channels,
            kernel,
            geometry: ConvGeometry::default(),
            norm: NormConfig::Identity,
            activation: Activation::None,
            initializer: Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2, fan_out_only: true },
        }
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

    /// Distance between kernel taps.
    #[must_use]
    pub fn with_dilation(mut self, dilation: [usize; 2]) -> Self {
        self.geometry.dilation = dilation;
        self
    }

    /// Independent groups of channels.
    #[must_use]
    pub fn with_groups(mut self, groups: usize) -> Self {
        self.geometry.groups = groups;
        self
    }

    /// The norm.
    #[must_use]
    pub fn with_norm(mut self, norm: NormConfig) -> Self {
        self.norm = norm;
        self
    }

    /// The activation.
    #[must_use]
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// How weights start.
    #[must_use]
    pub fn with_initializer(mut self, initializer: Initializer) -> Self {
        self.initializer = initializer;
        self
    }

    /// Makes the block.
    ///
    /// # Panics
    ///
    /// If the groups do not divide both channel counts.
    pub fn init(&self, device: &Device) -> ConvNorm {
        let [in_channels, out_channels] = self.channels;
        let groups = self.geometry.groups;
        assert!(
            groups > 0 && in_channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups),
            "{in_channels} and {out_channels} channels do not split into {groups} groups"
        );
        let taps = self.kernel[0] * self.kernel[1];
        let weight_shape = [out_channels, in_channels / groups, self.kernel[0], self.kernel[1]];
        let fans = [in_channels / groups * taps, out_channels / groups * taps];
        let norm = self.norm.init(weight_shape, groups, device);
        ConvNorm {
            weight: self.initializer.init_with(weight_shape, Some(fans[0]), Some(fans[1]), device),
            bias: norm.wants_bias().then(|| Initializer::Zeros.init([out_channels], device)),
            norm,
            geometry: self.geometry,
            activation: self.activation,
            packed: PackedWeightCache::default(),
        }
    }
}

/// `activation(norm(conv(x)))`. The convolution has a bias only where there is no norm.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// `[C_out, C_in / groups, kh, kw]`.
    pub weight: Param<Tensor<4>>,
    /// `[C_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// The norm.
    pub norm: Norm,
    /// How the convolution walks.
    #[module(skip)]
    pub geometry: ConvGeometry,
    /// What comes last.
    #[module(skip)]
    pub activation: Activation,
    /// The weight as the kernels of inference read it.
    #[module(skip)]
    pub packed: PackedWeightCache,
}

impl ConvNorm {
    /// Applies the block.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C_in]` to `[B, H', W', C_out]`
    ///
    /// # Panics
    ///
    /// If the input does not have `C_in` channels.
    pub fn forward(&self, x: &FeatureMap) -> FeatureMap {
        self.run(x, None)
    }

    /// `activation(norm(conv(x)) + residual)`: the end of a residual block.
    ///
    /// # Shapes
    ///
    /// `x`: `[B, H, W, C_in]`, `residual` and the result: `[B, H', W', C_out]`
    ///
    /// # Panics
    ///
    /// If the input does not have `C_in` channels, or the residual another shape than the result.
    pub fn forward_add(&self, x: &FeatureMap, residual: &FeatureMap) -> FeatureMap {
        self.run(x, Some(residual))
    }

    fn run(&self, x: &FeatureMap, residual: Option<&FeatureMap>) -> FeatureMap {
        let weight = self.weight.val();
        if let Some(affine) = self.fixed_affine(&x.device()) {
            let tail = ops::BlockTail { affine, residual, activation: self.activation };
            return ops::conv_block(x, &weight, &self.geometry, tail, &self.packed);
        }
        let cell = self.norm.wants_second_gradient(&x.device()).then(SecondGradientCell::default);
        let y = match &cell {
            Some(cell) => ops::conv2d_remembering(x, &weight, &self.geometry, cell),
            None => ops::conv2d(x, &weight, &self.geometry),
        };
        let second_gradient = cell.as_ref();
        let site = ConvSite { input: x, weight: &weight, geometry: &self.geometry, second_gradient };
        match residual {
            None => self.norm.forward(y, &site, self.activation),
            Some(residual) => {
                let sum = self.norm.forward(y, &site, Activation::None).add(residual.clone());
                if self.activation.is_relu() { sum.relu() } else { sum }
            }
        }
    }

    /// Scale and shift, if nothing else happens to the convolution's sums on this device: they then happen while those are in cache.
    fn fixed_affine(&self, device: &Device) -> Option<[Tensor<1>; 2]> {
        match &self.bias {
            Some(bias) => {
                let bias = bias.val();
                Some([bias.ones_like().detach(), bias])
            }
            None => self.norm.fixed_affine(device),
        }
    }

    /// The same block for inference, with its norm folded into weight and bias: `w' = scale * w`, `b' = shift`.
    ///
    /// Norms with fixed statistics in inference fold: batch, sync, frozen and cross-iteration. Group norm depends on its input, so a
    /// block with it stays as it is. The result trains as a convolution without norm, unless its weight is frozen.
    ///
    /// ```
    /// use burn::module::Module;
    /// use burn::tensor::{Device, Distribution, Tensor};
    /// use cbn::{CbnConfig, ConvNormConfig, NormConfig};
    ///
    /// let device = Device::flex();
    /// let norm = NormConfig::CrossIteration(CbnConfig::default());
    /// let block = ConvNormConfig::new([3, 8], [3, 3]).with_norm(norm).init(&device.clone().autodiff());
    /// let images = Tensor::random([2, 3, 9, 9], Distribution::Default, &device);
    /// block.forward_nchw(Tensor::from_inner(images.clone())); // moves the running statistics
    ///
    /// let trained = block.valid();
    /// let fused = trained.clone().fuse();
    /// let difference = trained.forward_nchw(images.clone()) - fused.forward_nchw(images);
    /// assert!(difference.abs().max().into_scalar::<f32>() < 1e-5);
    /// ```
    #[must_use]
    pub fn fuse(self) -> Self {
        let Some([scale, shift]) = self.norm.inference_affine() else { return self };
        let channels = self.weight.dims()[0];
        let bias = match self.bias {
            Some(bias) => bias.val() * scale.clone() + shift,
            None => shift,
        };
        let is_training = self.weight.val().is_require_grad();
        let is_frozen = self.weight.device().is_autodiff() && !is_training;
        let weight = self.weight.map(|weight| {
            let weight = (weight * scale.reshape([channels, 1, 1, 1])).detach();
            if is_training { weight.require_grad() } else { weight }
        });
        let bias = Param::from_tensor(bias.detach());
        let bias = if is_frozen { bias.set_require_grad(false) } else { bias };
        Self { weight, bias: Some(bias), norm: Norm::Identity(Identity), ..self }
    }

    /// The same for Burn's own layout.
    ///
    /// # Shapes
    ///
    /// `[B, C_in, H, W]` to `[B, C_out, H', W']`
    pub fn forward_nchw(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(&FeatureMap::from_nchw(x)).to_nchw()
    }
}
