//! Pooling, upsampling and cropping of feature maps.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::{KernelBackend, PoolGeometry, PyramidRoi, Roi, RoiAlignConfig};
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

/// Crops each box out of the level of a pyramid that it names, as [`roi_align`] does out of a map. Differentiable in the maps.
///
/// # Shapes
///
/// `levels`: `[B, H, W, C]` each, with the same B and C; `aligns` has one per level, with the same output. Result
/// `[N, output height, output width, C]`, one crop per box, in their order.
///
/// # Panics
///
/// If the levels do not fit each other, or a box is on a level or an image that is not there.
pub fn pyramid_roi_align(levels: [&FeatureMap; 4], rois: &[PyramidRoi], aligns: [RoiAlignConfig; 4]) -> FeatureMap {
    let [p2, p3, p4, p5] = levels.map(|level| level.nhwc().clone().into_dispatch());
    let crops = Dispatch::channels_last_pyramid_roi_align(p2, p3, p4, p5, rois.to_vec(), aligns);
    FeatureMap::from_nhwc(Tensor::from_dispatch(crops))
}
