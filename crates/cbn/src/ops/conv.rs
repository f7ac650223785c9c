//! Convolutions on feature maps.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::KernelBackend;
use crate::{ConvGeometry, FeatureMap};

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
    let [out_channels, in_channels, ..] = weight.dims();
    let groups = geometry.groups;
    assert!(
        x.channels() == in_channels * groups && out_channels % groups == 0,
        "a convolution of {groups} groups with a weight {:?} takes {} channels, found {}",
        weight.dims(),
        in_channels * groups,
        x.channels()
    );
    let y = Dispatch::channels_last_conv2d(x.nhwc().clone().into_dispatch(), weight.clone().into_dispatch(), *geometry);
    FeatureMap::from_nhwc(Tensor::from_dispatch(y))
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
