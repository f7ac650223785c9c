//! Where code bases differ between an image file and network pixels, and on the way back.

use serde::{Deserialize, Serialize};

use crate::structures::BoxConvention;

/// How an image gets its size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeRule {
    /// Sides are rounded, bytes interpolated; boxes follow the sides.
    #[default]
    Rounded,
    /// Sides are rounded, bytes interpolated in OpenCV's fixed point; boxes follow the factor before rounding (mmcv 0.2 `imrescale`).
    OpenCv,
    /// Sides are rounded down, floats interpolated; boxes follow the sides (torchvision 0.26 `GeneralizedRCNNTransform`).
    Torchvision,
}

/// How a mask comes back to its image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskPaste {
    /// Sampled at pixel centres, zero beyond the mask (detectron2 v0.6).
    #[default]
    PixelCentres,
    /// With a border of zeros, in the box cut to whole pixels (torchvision 0.26 `paste_masks_in_image`).
    PaddedWholePixels,
    /// Without border, in the box cut to whole pixels, above one half (mmdetection 0.6 `FCNMaskHead.get_seg_masks`).
    WholePixels,
}

/// How a training image's mask gets the network's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskResize {
    /// Polygons are scaled and then rasterised; of RLE, the pixel under a new pixel's centre.
    #[default]
    Outlines,
    /// Rasterised at the image's own size; then the pixel under a new pixel's top left corner (mmcv 0.2 `imrescale`: OpenCV's `INTER_NEAREST`).
    OpenCvNearest,
    /// The same, but for places in `f32` (torchvision 0.26 `GeneralizedRCNNTransform`).
    TorchNearest,
}

/// The way to network pixels and back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransformConventions {
    /// Of images.
    pub resize: ResizeRule,
    /// Of boxes.
    pub boxes: BoxConvention,
    /// Of masks to learn from.
    pub masks: MaskResize,
    /// Of masks that were found.
    pub paste: MaskPaste,
}
