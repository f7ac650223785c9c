//! Pooling, upsampling and cropping of feature maps.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::{KernelBackend, PoolGeometry, Roi, RoiAlignConfig};
use crate::FeatureMap;

/// The maximum of every square window; the border never wins.
///
/// # Shapes
///
/// `[B, H, W, C]` to `[B, H', W', C]` with `H' = (H + 2 * padding - kernel) / stride + 1`, rounded down.
pub fn max_pool2d(x: &FeatureMap, kernel: usize, stride: usize, padding: usize) -> FeatureMap {
    let pool = PoolGeometry { kernel, stride, padding };
    let y = Dispatch::channels_last_max_pool2d(x.nhwc().clone().into_dispatch(), pool);
    FeatureMap::from_nhwc(Tensor::from_dispatch(y))
}

/// `fine` plus `coarse`, enlarged by its nearest pixels to the size of `fine`: the top-down step of a feature pyramid.
///
/// # Shapes
///
/// `coarse`: `[B, h, w, C]`, `fine`: `[B, H, W, C]`.
pub fn upsample_add(coarse: &FeatureMap, fine: FeatureMap) -> FeatureMap {
    let coarse = coarse.nhwc().clone().into_dispatch();
    let sum = Dispatch::channels_last_upsample_add(coarse, fine.into_nhwc().into_dispatch());
    FeatureMap::from_nhwc(Tensor::from_dispatch(sum))
}

/// Crops boxes out of a map by bilinear samples (He et al., Mask R-CNN, section 3), as torchvision 0.26 does. Differentiable in x.
///
/// # Shapes
///
/// `x`: `[B, H, W, C]`, result `[N, output height, output width, C]`, one crop per box, which is in image pixels.
pub fn roi_align(x: &FeatureMap, rois: &[Roi], config: &RoiAlignConfig) -> FeatureMap {
    let crops = Dispatch::channels_last_roi_align(x.nhwc().clone().into_dispatch(), rois.to_vec(), *config);
    FeatureMap::from_nhwc(Tensor::from_dispatch(crops))
}
