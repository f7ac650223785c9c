//! Where code bases differ in what they train on, between an image file and network pixels, and on the way back.

use serde::{Deserialize, Serialize};

use super::{Annotation, ImageRecord};
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
    /// Sides are rounded after each of two scalings, bytes interpolated as Pillow does it, without gaps between what is read where an image shrinks; boxes
    /// follow the sides (detectron2 0.6 `ResizeShortestEdge`).
    Pillow,
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

/// Where the images of an epoch without anything to learn from go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BarrenImages {
    /// Out of the epoch. An image all of whose objects are too small to be one to [`BoxConvention::is_object`] is trained on as background.
    #[default]
    LeftOut,
    /// Those with any annotation stay in the epoch, and a random image of the same group that shows an object takes their place, every time another
    /// (mmdetection 0.6 `CustomDataset.__getitem__`).
    Replaced,
}

/// Whose mask an object learns in an image that shows a crowd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrowdMasks {
    /// Its own.
    #[default]
    LeftOut,
    /// The n-th object that of the n-th annotation: behind a crowd, another's. A defect of mmdetection 0.6 `CocoDataset._parse_ann_info`, where a crowd's mask joins the list
    /// of masks and its box does not join the list of boxes.
    Listed,
}

/// Which images are trained on, and which of their annotations are objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionConventions {
    /// Images with a shorter side are left out (mmdetection 0.6 `CocoDataset._filter_imgs`: 32).
    pub min_side_px: usize,
    /// Whether an annotation whose key `ignore` is true is none (mmdetection 0.6 `CocoDataset._parse_ann_info`), or the key is not read.
    pub reads_ignore: bool,
    /// Images with crowds alone, for one.
    pub barren: BarrenImages,
    /// Masks of images with crowds and objects.
    pub crowd_masks: CrowdMasks,
}

impl SelectionConventions {
    /// What a detector learns from in an image.
    pub fn objects(self, image: &ImageRecord) -> impl Iterator<Item = &Annotation> {
        self.annotations(image).filter(|annotation| !annotation.is_crowd)
    }

    /// Objects and crowds.
    fn annotations(self, image: &ImageRecord) -> impl Iterator<Item = &Annotation> {
        image.annotations.iter().filter(move |annotation| !(self.reads_ignore && annotation.is_ignored))
    }

    /// The objects whose boxes are some, each with the annotation whose mask it learns.
    pub(super) fn targets(self, image: &ImageRecord, boxes: BoxConvention) -> impl Iterator<Item = [&Annotation; 2]> {
        let is_listed = move |annotation: &&Annotation| {
            boxes.is_object(&annotation.bbox) && (self.crowd_masks == CrowdMasks::Listed || !annotation.is_crowd)
        };
        let objects = self.objects(image).filter(move |object| boxes.is_object(&object.bbox));
        objects.zip(self.annotations(image).filter(is_listed)).map(|(object, masked)| [object, masked])
    }

    /// Whether an image is one of every epoch.
    pub fn takes(self, image: &ImageRecord) -> bool {
        let is_large = image.size.width.min(image.size.height) >= self.min_side_px;
        is_large
            && match self.barren {
                BarrenImages::LeftOut => self.objects(image).next().is_some(),
                BarrenImages::Replaced => image.is_annotated,
            }
    }

    /// Whether another image takes the place of this one.
    pub(super) fn replaces(self, image: &ImageRecord, boxes: BoxConvention) -> bool {
        self.barren == BarrenImages::Replaced && !self.objects(image).any(|object| boxes.is_object(&object.bbox))
    }
}
