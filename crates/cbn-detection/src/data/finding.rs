use serde::Serialize;

use super::ImageError;
use crate::structures::ImageSize;

/// Something in a data set that a training would stumble on.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Finding {
    /// Two images share an id.
    #[error("image id {image} is used twice; ids must be unique")]
    DuplicateImage {
        /// The id.
        image: u64,
    },
    /// Two categories share an id.
    #[error("category id {category} is used twice; ids must be unique")]
    DuplicateCategory {
        /// The id.
        category: u64,
    },
    /// The JSON gives an image no pixels.
    #[error("image {image} has size {size} in the JSON; write its \"width\" and \"height\"")]
    NoImageSize {
        /// Id of the image.
        image: u64,
        /// Its size in the JSON.
        size: ImageSize,
    },
    /// An annotation names an image that is not listed.
    #[error("annotation {annotation} is on image {image}, which is not in \"images\"")]
    UnknownImage {
        /// Id of the annotation.
        annotation: u64,
        /// Id of the image.
        image: u64,
    },
    /// An annotation names a category that is not listed.
    #[error("image {image}: annotation {annotation} has category id {category}, which is not in \"categories\"")]
    UnknownCategory {
        /// Id of the image.
        image: u64,
        /// Id of the annotation.
        annotation: u64,
        /// Id of the category.
        category: u64,
    },
    /// An annotation has no box.
    #[error("image {image}: annotation {annotation} has no \"bbox\"")]
    NoBox {
        /// Id of the image.
        image: u64,
        /// Id of the annotation.
        annotation: u64,
    },
    /// A box, or the annotation's own `area`, covers nothing.
    #[error("image {image}: annotation {annotation} has {what} {value}; list such boxes with \"cbn data check\"")]
    ZeroArea {
        /// Id of the image.
        image: u64,
        /// Id of the annotation.
        annotation: u64,
        /// `width`, `height` or `area`.
        what: &'static str,
        /// The value in the JSON.
        value: f64,
    },
    /// A box has no pixel in common with its image.
    #[error(
        "image {image}: annotation {annotation} has its box {bbox:?} (x, y, width, height) outside the {size} image; \
         list such boxes with \"cbn data check\""
    )]
    OutsideImage {
        /// Id of the image.
        image: u64,
        /// Id of the annotation.
        annotation: u64,
        /// The box in the JSON.
        bbox: [f64; 4],
        /// Size of the image.
        size: ImageSize,
    },
    /// A box reaches more than a pixel beyond its image.
    #[error(
        "image {image}: annotation {annotation} has its box {bbox:?} (x, y, width, height) partly outside the {size} image; \
         it is clipped"
    )]
    ClippedBox {
        /// Id of the image.
        image: u64,
        /// Id of the annotation.
        annotation: u64,
        /// The box in the JSON.
        bbox: [f64; 4],
        /// Size of the image.
        size: ImageSize,
    },
    /// A segmentation is malformed.
    #[error("image {image}: annotation {annotation} has a segmentation that cannot be used: {reason}")]
    BadSegmentation {
        /// Id of the image.
        image: u64,
        /// Id of the annotation.
        annotation: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// An object has a box and no mask.
    #[error("image {image}: annotation {annotation} has no segmentation; a mask head cannot be trained on it")]
    NoMask {
        /// Id of the image.
        image: u64,
        /// Id of the annotation.
        annotation: u64,
    },
    /// An image shows no object that could be learned from.
    #[error("image {image} has no usable annotation; it is evaluated, but not trained on")]
    NoObjects {
        /// Id of the image.
        image: u64,
    },
    /// An image file is missing, broken, or not the one the JSON describes.
    #[error("image {image}: {error}")]
    BadImage {
        /// Id of the image.
        image: u64,
        /// What is wrong.
        error: ImageError,
    },
}

/// What a [`Finding`] means for a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For information; nothing is lost.
    Note,
    /// The annotation is left out, the training goes on.
    Skipped,
    /// The training stops: at the start for a fault of the JSON, at the image for a fault of an image or a mask.
    Error,
}

impl Finding {
    /// What the finding means for a training.
    pub fn severity(&self) -> Severity {
        match self {
            Self::DuplicateImage { .. }
            | Self::DuplicateCategory { .. }
            | Self::NoImageSize { .. }
            | Self::UnknownImage { .. }
            | Self::UnknownCategory { .. }
            | Self::BadSegmentation { .. }
            | Self::BadImage { .. } => Severity::Error,
            Self::NoBox { .. } | Self::ZeroArea { .. } | Self::OutsideImage { .. } => Severity::Skipped,
            Self::ClippedBox { .. } | Self::NoMask { .. } | Self::NoObjects { .. } => Severity::Note,
        }
    }
}
