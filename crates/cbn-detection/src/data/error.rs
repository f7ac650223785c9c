use std::path::{Path, PathBuf};

use super::{Finding, ImageError};

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The annotation file is not COCO JSON.
    #[error("{} is not COCO JSON: {reason}; it needs the lists \"images\", \"annotations\" and \"categories\"", path.display())]
    NotCoco {
        /// The annotation file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The annotation file lists no image.
    #[error("{} lists no images: the data set is empty", path.display())]
    Empty {
        /// The annotation file.
        path: PathBuf,
    },
    /// No image has an object to learn from.
    #[error(
        "none of the {num_images} images in {} has a usable annotation, so there is nothing to train on; \
         \"cbn data check\" lists what is wrong with them",
        path.display()
    )]
    NothingToTrainOn {
        /// The annotation file.
        path: PathBuf,
        /// Images that it lists.
        num_images: usize,
    },
    /// An entry of the annotation file makes the whole file unusable.
    #[error("{}: {finding}", path.display())]
    Invalid {
        /// The annotation file.
        path: PathBuf,
        /// The entry.
        finding: Finding,
    },
    /// A mask head is to be trained, but an annotation has no mask.
    #[error(
        "{}: image {image}: annotation {annotation} has no segmentation, but masks are to be learned; \
         add it, or use a recipe without a mask head",
        path.display()
    )]
    NoMask {
        /// The annotation file.
        path: PathBuf,
        /// Id of the image.
        image: u64,
        /// Id of the annotation.
        annotation: u64,
    },
    /// An image could not be used.
    #[error("image {image}")]
    Image {
        /// Id of the image.
        image: u64,
        /// What is wrong with its file.
        source: ImageError,
    },
    /// More images cannot be used than the run bears.
    #[error(
        "image {image}, one bad image more than the {limit} that may be skipped (\"cbn data check\" lists them all)"
    )]
    TooManyBadImages {
        /// How many are borne.
        limit: usize,
        /// Id of the image.
        image: u64,
        /// What is wrong with its file.
        source: ImageError,
    },
    /// A worker thread failed in a way that no error tells.
    #[error("a worker that prepares images panicked: {message}; this is a defect of the program, please report it")]
    WorkerPanic {
        /// What it said.
        message: String,
    },
    /// A segmentation could not be turned into pixels.
    #[error("image {image}: annotation {annotation}: {reason}")]
    Segmentation {
        /// Id of the image.
        image: u64,
        /// Id of the annotation.
        annotation: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A data folder has none of the known layouts.
    #[error(
        "{} has no {split} annotations: looked for {}; give the paths one by one if they lie elsewhere",
        dir.display(),
        list(tried)
    )]
    Layout {
        /// The data folder.
        dir: PathBuf,
        /// "train" or "val".
        split: &'static str,
        /// The annotation files looked for.
        tried: Vec<PathBuf>,
    },
    /// Neither a data folder nor the paths were given.
    #[error("no {split} data given: name a data folder, or both the {split} annotations and the {split} images")]
    NoPaths {
        /// "train" or "val".
        split: &'static str,
    },
    /// A loader setting makes no sense.
    #[error("{field} is {value}: {expected}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it has to be.
        expected: &'static str,
    },
}

impl DataError {
    /// For `map_err` on writing `path`.
    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}
