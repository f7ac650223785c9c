//! Convolutions on feature maps.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::{Addend, KernelBackend, PackedWeightCache};
use crate::context::beside;
use crate::{Activation, ConvGeometry, FeatureMap};

/// A convolution without bias, differentiable in both.
///
/// # Shapes
///
/// `x`: `[B, H, W, C_in]`, `weight`: `[C_out, C_in / groups, kh, kw]`, result `[B, H', W', C_out]`.
///
/// # Panics
///
/// If the channels of the input and the weight do not fit each other.
pub fn conv2d(x: &FeatureMap, weight: &Tensor<4>, geometry: &ConvGeometry) -> FeatureMap {
    check_channels(x, weight, geometry.groups);
    let y = Dispatch::channels_last_conv2d(x.nhwc().clone().into_dispatch(), weight.clone().into_dispatch(), *geometry);
    FeatureMap::from_nhwc(Tensor::from_dispatch(y))
}

/// What follows the sums of a convolution block.
pub struct BlockTail<'a> {
    /// Scale and shift, `[C_out]` each.
    pub affine: [Tensor<1>; 2],
    /// Added, `[B, H', W', C_out]`.
    pub residual: Option<&'a FeatureMap>,
    /// What comes last.
    pub activation: Activation,
}

/// `activation(scale * conv2d(x, w) + shift + residual)` in one pass over the result, differentiable in all five.
///
/// Of the forward pass only the result is kept: what the gradients need of the convolution follows from it.
///
/// # Shapes
///
/// `x`: `[B, H, W, C_in]`, `weight`: `[C_out, C_in / groups, kh, kw]`, result `[B, H', W', C_out]`.
///
/// # Panics
///
/// If the channels of the input and the weight do not fit each other, or the residual has another shape than the result.
pub fn conv_block(
    x: &FeatureMap,
    weight: &Tensor<4>,
    geometry: &ConvGeometry,
    tail: BlockTail<'_>,
    packed: &PackedWeightCache,
) -> FeatureMap {
    check_channels(x, weight, geometry.groups);
    let affine = beside(Tensor::stack::<2>(tail.affine.to_vec(), 0), &x.device());
    let residual = tail.residual.map_or(Addend::Nothing, |map| Addend::Map(map.nhwc().clone().into_dispatch()));
    let y = Dispatch::channels_last_conv_block(
        x.nhwc().clone().into_dispatch(),
        weight.clone().into_dispatch(),
        affine.into_dispatch(),
        residual,
        *geometry,
        tail.activation.is_relu(),
        packed.share(),
    );
    FeatureMap::from_nhwc(Tensor::from_dispatch(y))
}

pub(super) fn check_channels(x: &FeatureMap, weight: &Tensor<4>, groups: usize) {
    let [out_channels, in_channels, ..] = weight.dims();
    assert!(
        x.channels() == in_channels * groups && out_channels % groups == 0,
        "a convolution of {groups} groups with a weight {:?} takes {} channels, found {}",
        weight.dims(),
        in_channels * groups,
        x.channels()
    );
}

/// The gradient of `sum(grad * conv2d(x, w))` with respect to w. Not differentiable itself: call it on tensors without autodiff.
///
/// # Shapes
///
/// `x`: `[B, H, W, C_in]`, `grad`: `[B, H', W', C_out]`, result `[C_out, C_in / groups, kh, kw]`.
pub fn conv2d_weight_gradient(
    x: Tensor<4>,
    grad: Tensor<4>,
    weight_shape: [usize; 4],
    geometry: &ConvGeometry,
) -> Tensor<4> {
    let (x, grad) = (x.into_dispatch(), grad.into_dispatch());
    Tensor::from_dispatch(Dispatch::channels_last_conv2d_weight_backward(x, grad, weight_shape, *geometry))
}

/// The mean of the patches that a convolution reads, zeros of the padding included. Not differentiable itself: call it on
/// a tensor without autodiff.
///
/// # Shapes
///
/// `x`: `[B, H, W, C_in]`, result `[groups, C_in / groups, kh, kw]`.
pub fn mean_patch(x: Tensor<4>, kernel: [usize; 2], geometry: &ConvGeometry) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::channels_last_mean_patch(x.into_dispatch(), kernel, *geometry))
}
