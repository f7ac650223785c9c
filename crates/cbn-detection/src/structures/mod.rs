//! Typed values between the stages of a detector.
//!
//! Boxes, labels and masks live on the host as plain vectors; tensors appear where the network and the losses need them.

mod boxes;
mod detections;
mod images;
mod instance_mask;
mod losses;
mod mask_target;
mod proposals;
mod pyramid;
mod targets;

pub use boxes::{BBox, BoxConvention, ImageSize};
pub use detections::{Detections, SoftMask};
pub use images::{ImageBatch, PaddedImages};
pub use instance_mask::InstanceMask;
pub use losses::{LossCounts, Losses};
pub use mask_target::MaskTarget;
pub use proposals::Proposals;
pub use pyramid::Pyramid;
pub use targets::{Targets, TrainBatch};
