//! What is wrong with a configuration, and the checks that find it.

use thiserror::Error;

use super::NUM_LEVELS;

/// A detector that cannot be built.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ConfigError {
    /// A count is zero.
    #[error("{field} must be at least 1")]
    Zero {
        /// Which one.
        field: &'static str,
    },
    /// A share, a score or an IoU is not one.
    #[error("{field} is {found}, it must lie between 0 and 1")]
    NotInUnitInterval {
        /// Which one.
        field: &'static str,
        /// Its value.
        found: f32,
    },
    /// A beta is zero, negative or not finite.
    #[error("{field} is {found}, it must be above 0")]
    NotAboveZero {
        /// Which one.
        field: &'static str,
        /// Its value.
        found: f32,
    },
    /// A ResNet has four stages.
    #[error("backbone.frozen_stages is {found}, a ResNet has 4 stages")]
    FrozenStages {
        /// Its value.
        found: usize,
    },
    /// Some IoU would be positive and negative.
    #[error("{place}.negative_iou is {negative}, above positive_iou {positive}")]
    IouOrder {
        /// The part of the detector.
        place: &'static str,
        /// Upper bound of negatives.
        negative: f32,
        /// Lower bound of positives.
        positive: f32,
    },
    /// Anchors for another number of levels.
    #[error("rpn.anchors.sizes has {found} levels, the pyramid has {NUM_LEVELS} (P2 to P6)")]
    AnchorLevels {
        /// Their number.
        found: usize,
    },
    /// The head is shared by the levels.
    #[error("rpn.anchors.sizes has {found:?} sizes per level, all levels need the same number")]
    AnchorCounts {
        /// Their numbers.
        found: Vec<usize>,
    },
    /// A size or a ratio that makes no box.
    #[error("rpn.anchors has a size or aspect ratio {found}, it must be above 0")]
    AnchorShape {
        /// Its value.
        found: f32,
    },
    /// Deltas could not be decoded.
    #[error("box_head.box_weights has {found}, each must be above 0")]
    BoxWeight {
        /// Its value.
        found: f32,
    },
}

pub(super) fn positive(field: &'static str, value: usize) -> Result<(), ConfigError> {
    if value == 0 { Err(ConfigError::Zero { field }) } else { Ok(()) }
}

pub(super) fn unit(field: &'static str, found: f32) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&found) { Ok(()) } else { Err(ConfigError::NotInUnitInterval { field, found }) }
}

pub(super) fn above_zero(field: &'static str, found: f32) -> Result<(), ConfigError> {
    if found.is_finite() && found > 0.0 { Ok(()) } else { Err(ConfigError::NotAboveZero { field, found }) }
}
