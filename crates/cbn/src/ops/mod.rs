//! Operations on feature maps, each behind one backend extension.
//!
//! [`KernelBackend`] is the border: its default bodies (`reference.rs`) are the definitions, on Burn's own operations and for any
//! backend; the CPU backend overrides them with `cbn-kernels`, and `Autodiff` adds the gradients, written by hand.
//! The public functions check shapes and hide the primitives.

mod autodiff;
mod conv;
mod descent;
mod flex;
mod linear;
mod maps;
mod normalize;
mod packed;
mod reference;
mod sampled;
mod second_gradient;
#[cfg(test)]
mod tests;

use burn::backend::Backend;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{ExtensionType, backend_extension};
pub use cbn_kernels::{PyramidRoi, Roi, RoiAlign as RoiAlignConfig};

pub use self::conv::{BlockTail, conv_block, conv2d, conv2d_weight_gradient, mean_patch};
pub use self::descent::{SgdStep, sgd_step, sum_of_squares};
pub use self::linear::linear;
pub use self::maps::{max_pool2d, pyramid_roi_align, roi_align, upsample_add};
pub use self::normalize::{ChannelStatistics, channel_moments, group_normalize, normalize, row_dots};
pub use self::packed::{PackedWeightCache, SharedCache};
pub use self::sampled::{Sample, conv2d_weight_gradient_of_sample};
pub use self::second_gradient::SecondGradientCell;
pub(crate) use self::second_gradient::conv2d_remembering;
use crate::ConvGeometry;
use crate::process_group::Peers;

/// Max-pooling of square windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolGeometry {
    /// Side of the window.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Border on each side, which never wins.
    pub padding: usize,
}

/// The gradients of [`normalize`].
#[derive(Clone, Debug, ExtensionType)]
pub struct NormalizeGradients<B: Backend> {
    /// With respect to the map, `[B, H, W, C]`.
    pub y: FloatTensor<B>,
    /// With respect to gamma, `[C]`.
    pub gamma: FloatTensor<B>,
    /// With respect to beta, `[C]`.
    pub beta: FloatTensor<B>,
    /// With respect to the mean and the variance used, `[2, C]`, as if the map did not determine them.
    pub moments: FloatTensor<B>,
}

/// A map to add, or none.
#[derive(Clone, Debug, ExtensionType)]
pub enum Addend<B: Backend> {
    /// None.
    Nothing,
    /// `[B, H', W', C_out]`.
    Map(FloatTensor<B>),
}

/// The gradients of a convolution block down to its convolution, see [`conv_block`].
#[derive(Clone, Debug, ExtensionType)]
pub struct BlockGradients<B: Backend> {
    /// With respect to the sum under the ReLU, `[B, H', W', C_out]`.
    pub sum: FloatTensor<B>,
    /// With respect to scale and shift, `[2, C_out]`.
    pub affine: FloatTensor<B>,
}

/// Two weight gradients of one convolution.
#[derive(Clone, Debug, ExtensionType)]
pub struct WeightGradientPair<B: Backend> {
    /// Of the loss.
    pub of_loss: FloatTensor<B>,
    /// With the output as upstream gradient.
    pub of_output: FloatTensor<B>,
}

/// The gradients of group norm.
#[derive(Clone, Debug, ExtensionType)]
pub struct GroupNormGradients<B: Backend> {
    /// With respect to the map, `[B, H, W, C]`.
    pub x: FloatTensor<B>,
    /// With respect to gamma, `[C]`.
    pub gamma: FloatTensor<B>,
    /// With respect to beta, `[C]`.
    pub beta: FloatTensor<B>,
}

/// What a step of gradient descent leaves.
#[derive(Clone, Debug, ExtensionType)]
pub struct Moved<B: Backend> {
    /// The weight.
    pub weight: FloatTensor<B>,
    /// Its velocity.
    pub velocity: FloatTensor<B>,
}

/// The numbers of a group norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormOptions {
    /// Channels are split into so many groups.
    pub groups: usize,
    /// Added to the biased variance.
    pub epsilon: f64,
    /// Whether negative results become zero.
    pub relu: bool,
}

/// What a backend must offer for this crate's layers. All maps are `[B, H, W, C]`, all weights `[C_out, C_in / groups, kh, kw]`.
#[backend_extension(Flex, Autodiff, Cube: cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm")))]
#[allow(clippy::too_many_arguments, reason = "an operation takes tensor by tensor what a layer knows")]
pub trait KernelBackend: Backend {
    /// Convolution without bias.
    fn channels_last_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        geometry: ConvGeometry,
    ) -> FloatTensor<Self> {
        reference::conv2d::<Self>(x, weight, geometry)
    }

    /// `relu(scale * conv(x) + shift + residual)`, the ReLU if `relu`; `affine` is scale and shift, `[2, C_out]`.
    fn channels_last_conv_block(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        affine: FloatTensor<Self>,
        #[extension_type] residual: Addend<Self>,
        geometry: ConvGeometry,
        relu: bool,
        packed: SharedCache,
    ) -> FloatTensor<Self> {
        let _ = packed;
        reference::conv_block::<Self>(x, weight, affine, residual, geometry, relu)
    }

    /// `relu(x W + b)`, the ReLU if `relu`, of `[N, D_in]`, `[D_in, D_out]` and `[D_out]`.
    fn channels_last_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        relu: bool,
        packed: SharedCache,
    ) -> FloatTensor<Self> {
        let _ = packed;
        linear::reference::<Self>([x, weight, bias], relu)
    }

    /// Its gradients down to the convolution, from its result `out` and the gradient of that.
    fn channels_last_conv_block_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        affine: FloatTensor<Self>,
        out: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        #[extension_type] residual: Addend<Self>,
        geometry: ConvGeometry,
        relu: bool,
    ) -> BlockGradients<Self> {
        let _ = residual;
        reference::conv_block_backward::<Self>([x, weight, affine, out, grad], geometry, relu)
    }

    /// The gradient of the convolution with respect to an input of shape `x_shape`.
    fn channels_last_conv2d_x_backward(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        x_shape: [usize; 4],
        geometry: ConvGeometry,
    ) -> FloatTensor<Self> {
        reference::conv2d_x_backward::<Self>(weight, grad, x_shape, geometry)
    }

    /// Its gradient with respect to a weight of shape `weight_shape`.
    fn channels_last_conv2d_weight_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        weight_shape: [usize; 4],
        geometry: ConvGeometry,
    ) -> FloatTensor<Self> {
        reference::conv2d_weight_backward::<Self>(x, grad, weight_shape, geometry)
    }

    /// That gradient over some output positions only.
    fn channels_last_conv2d_weight_backward_of_sample(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        weight_shape: [usize; 4],
        geometry: ConvGeometry,
        sample: Sample,
    ) -> FloatTensor<Self> {
        sampled::reference::<Self>(x, grad, weight_shape, geometry, &sample)
    }

    /// Two such gradients from two upstream gradients: that of the loss, and the convolution's own output.
    fn channels_last_conv2d_weight_backward_pair(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        output: FloatTensor<Self>,
        weight_shape: [usize; 4],
        geometry: ConvGeometry,
    ) -> WeightGradientPair<Self> {
        let gradient =
            |upstream| reference::conv2d_weight_backward::<Self>(x.clone(), upstream, weight_shape, geometry);
        WeightGradientPair { of_loss: gradient(grad), of_output: gradient(output) }
    }

    /// A convolution whose backward pass, if there is one, leaves the second of the pair in `cell`.
    fn channels_last_conv2d_remembering(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        geometry: ConvGeometry,
        cell: SecondGradientCell,
    ) -> FloatTensor<Self> {
        let _ = cell;
        Self::channels_last_conv2d(x, weight, geometry)
    }

    /// What a backward pass on this backend, that of `beside`, left in `cell`.
    fn channels_last_take(beside: FloatTensor<Self>, cell: SecondGradientCell) -> FloatTensor<Self> {
        let _ = beside;
        cell.take_ready::<Self>()
    }

    /// The mean input patch of a convolution, `[groups, C_in / groups, kh, kw]`. No gradient.
    fn channels_last_mean_patch(x: FloatTensor<Self>, kernel: [usize; 2], geometry: ConvGeometry) -> FloatTensor<Self> {
        reference::mean_patch::<Self>(x, kernel, geometry)
    }

    /// Mean and biased variance of each channel, `[2, C]`. No gradient.
    fn channels_last_moments(y: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::moments::<Self>(y)
    }

    /// The dot product of each row of `b`, `[R, D]`, with its row of `a`, `[G, D]`: `[R]`, see [`row_dots`].
    fn channels_last_row_dots(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::row_dots::<Self>(a, b)
    }

    /// Its gradient with respect to `b`, `[R, D]`.
    fn channels_last_row_dots_backward(
        a: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        b_shape: [usize; 2],
    ) -> FloatTensor<Self> {
        reference::row_dots_backward::<Self>(a, grad, b_shape)
    }

    /// `gamma * (y - mean) * inv_std + beta`, then a ReLU if `relu`; `moments` is `[2, C]`, `factors` `[3, C]`, see [`ChannelStatistics`].
    fn channels_last_normalize(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        relu: bool,
        peers: Peers,
    ) -> FloatTensor<Self> {
        let _ = peers;
        reference::normalize::<Self>([y, gamma, beta, moments, factors], relu)
    }

    /// Its gradients; those of gamma, beta and the moments are this process's part, that of y knows of all `peers`.
    fn channels_last_normalize_backward(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        relu: bool,
        peers: Peers,
    ) -> NormalizeGradients<Self> {
        reference::normalize_backward::<Self>([y, gamma, beta, moments, factors], grad, relu, &peers)
    }

    /// Group norm over each image and group of channels, then a ReLU if asked for.
    fn channels_last_group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> FloatTensor<Self> {
        reference::group_norm::<Self>(x, gamma, beta, options)
    }

    /// Its gradients.
    fn channels_last_group_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> GroupNormGradients<Self> {
        reference::group_norm_backward::<Self>([x, gamma, beta], grad, options)
    }

    /// Max-pooling.
    fn channels_last_max_pool2d(x: FloatTensor<Self>, pool: PoolGeometry) -> FloatTensor<Self> {
        Self::channels_last_max_pool2d_with_indices(x, pool).0
    }

    /// Max-pooling, and where in its image each maximum was, `y * W + x`.
    fn channels_last_max_pool2d_with_indices(
        x: FloatTensor<Self>,
        pool: PoolGeometry,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        reference::max_pool2d::<Self>(x, pool)
    }

    /// The gradient of max-pooling.
    fn channels_last_max_pool2d_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        indices: IntTensor<Self>,
        pool: PoolGeometry,
    ) -> FloatTensor<Self> {
        reference::max_pool2d_backward::<Self>(x, grad, indices, pool)
    }

    /// `fine + nearest(coarse)`.
    fn channels_last_upsample_add(coarse: FloatTensor<Self>, fine: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::upsample_add::<Self>(coarse, fine)
    }

    /// The gradient of [`channels_last_upsample_add`](Self::channels_last_upsample_add) with respect to `coarse`, whose value does not matter.
    fn channels_last_upsample_add_backward(coarse: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::upsample_add_backward::<Self>(coarse, grad)
    }

    /// ROI Align, `[N, h, w, C]`.
    fn channels_last_roi_align(x: FloatTensor<Self>, rois: Vec<Roi>, config: RoiAlignConfig) -> FloatTensor<Self> {
        reference::roi_align::<Self>(x, &rois, &config)
    }

    /// Its gradient with respect to a map of shape `x_shape`.
    fn channels_last_roi_align_backward(
        grad: FloatTensor<Self>,
        rois: Vec<Roi>,
        config: RoiAlignConfig,
        x_shape: [usize; 4],
    ) -> FloatTensor<Self> {
        reference::roi_align_backward::<Self>(grad, &rois, &config, x_shape)
    }

    /// ROI Align on the levels of a pyramid, each box on its own, `[N, h, w, C]`; `aligns` has one per level.
    fn channels_last_pyramid_roi_align(
        p2: FloatTensor<Self>,
        p3: FloatTensor<Self>,
        p4: FloatTensor<Self>,
        p5: FloatTensor<Self>,
        rois: Vec<PyramidRoi>,
        aligns: [RoiAlignConfig; 4],
    ) -> FloatTensor<Self> {
        reference::pyramid_roi_align::<Self>([p2, p3, p4, p5], &rois, aligns)
    }

    /// Its gradient with respect to the map of `level`, of shape `x_shape`.
    fn channels_last_pyramid_roi_align_backward(
        grad: FloatTensor<Self>,
        rois: Vec<PyramidRoi>,
        align: RoiAlignConfig,
        level: usize,
        x_shape: [usize; 4],
    ) -> FloatTensor<Self> {
        reference::pyramid_roi_align_backward::<Self>(grad, &rois, align, level, x_shape)
    }

    /// The sum of all values' squares, `[1]`.
    fn channels_last_sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_sum(Self::float_mul(x.clone(), x))
    }

    /// A step of gradient descent; all tensors have the weight's shape.
    fn channels_last_sgd_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        step: SgdStep,
    ) -> Moved<Self> {
        let [weight, velocity] = descent::reference::<Self>(weight, gradient, velocity, step);
        Moved { weight, velocity }
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
impl KernelBackend for burn::backend::Cube {}
