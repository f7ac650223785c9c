use std::path::PathBuf;

use crate::data::DataError;
use crate::structures::ImageSize;

/// Why detections cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// Another process that evaluates its part of the images failed.
    #[error("rank {rank}: {reason}")]
    Peer {
        /// Which one.
        rank: usize,
        /// What it said.
        reason: String,
    },
    /// Whoever is told of the progress said stop.
    #[error("the evaluation was interrupted")]
    Interrupted,
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The ground truth is not COCO JSON.
    #[error("{} is not COCO ground truth: {reason}", path.display())]
    NotGroundTruth {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The detections are not COCO results.
    #[error(
        "{} is not a COCO results file: {reason}; it must be a list of \
         {{image_id, category_id, score, bbox and/or segmentation}}",
        path.display()
    )]
    NotResults {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A detection is on an image that the ground truth does not list.
    #[error(
        "detection {index} is on image {image}, which is not in the ground truth; are the two from the same split?"
    )]
    UnknownImage {
        /// Place in the list of detections.
        index: usize,
        /// Id of the image.
        image: u64,
    },
    /// A detection has a category that the ground truth does not list.
    #[error("detection {index} has category id {category}, which is not in the ground truth")]
    UnknownCategory {
        /// Place in the list of detections.
        index: usize,
        /// Id of the category.
        category: u64,
    },
    /// Masks are to be scored, but a detection has none.
    #[error("detection {index} (image {image}) has no segmentation, so masks cannot be scored; evaluate boxes only")]
    NoMask {
        /// Place in the list of detections.
        index: usize,
        /// Id of the image.
        image: u64,
    },
    /// A detection has neither box nor mask.
    #[error("detection {index} (image {image}) has neither bbox nor segmentation")]
    NoGeometry {
        /// Place in the list of detections.
        index: usize,
        /// Id of the image.
        image: u64,
    },
    /// A mask was made for another image.
    #[error("a mask has size {found}, its image {expected}")]
    MaskSize {
        /// Of the mask.
        found: ImageSize,
        /// Of the image.
        expected: ImageSize,
    },
    /// The limits on the number of detections do not rise.
    #[error("max_detections is {0:?}: three rising positive numbers are needed, such as [1, 10, 100]")]
    MaxDetections([usize; 3]),
    /// An image could not be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The evaluation itself refused the data.
    #[error("cannot evaluate: {0}")]
    Engine(#[from] hotcoco::Error),
}
