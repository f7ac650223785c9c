//! From a COCO-format folder to batches.
//!
//! [`Dataset`] reads the annotations, [`TransformConfig`] draws a [`Transform`] per image, [`TrainLoader`] and
//! [`TestLoader`] turn both into padded batches on worker threads.

mod bad_images;
mod batcher;
mod check;
mod coco;
mod conventions;
pub mod convert;
mod deal;
mod error;
mod finding;
mod image_file;
mod loader;
mod mask;
mod paths;
mod photometric;
mod prefetch;
mod sampler;
pub mod synthetic;
mod transform;

pub use bad_images::BadImages;
pub use batcher::{ImageMeta, TestBatch};
pub use check::{CheckReport, check};
pub use coco::{Annotation, Category, Dataset, ImageRecord};
pub use conventions::{
    BarrenImages, CrowdMasks, MaskPaste, MaskResize, ResizeRule, SelectionConventions, TransformConventions,
};
pub use error::DataError;
pub use finding::{Finding, Severity};
pub use image_file::{ImageError, read_rgb};
pub use loader::{LoaderConfig, TestLoader, TrainLoader};
pub use paths::{DataPaths, Split, SplitPaths};
pub use photometric::PhotometricConfig;
pub use sampler::Shard;
pub use transform::{Pixels, ResizedImage, Transform, TransformConfig};
