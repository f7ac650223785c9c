//! Where code bases that draw the same detector compute other numbers: one enum per difference.
//!
//! `recipe/conventions.rs` sets them together; the defaults are this library's own.

use serde::{Deserialize, Serialize};

use crate::ops::{BestCandidates, DeltaClamp};
use crate::structures::{BoxConvention, MaskTarget};

/// Where anchors lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnchorLayout {
    /// Around the top left corner of each cell, one level stride apart.
    #[default]
    Corners,
    /// The same, but apart by padded image size over map size, rounded down (torchvision 0.26 `AnchorGenerator`): less than the
    /// stride at P6 where a padded side is no multiple of 64.
    CornersByQuotient,
    /// Around the same corners, with sides that are not rounded (detectron2 0.6 `DefaultAnchorGenerator`).
    CornersUnrounded,
    /// Around the middle of each cell's first pixels, `(stride - 1) / 2`, in whole inclusive pixels (mmdetection 0.6).
    InclusivePixels,
}

/// Which anchors may learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnchorScope {
    /// All.
    #[default]
    All,
    /// Those that lie in the image without its padding.
    InsideImage,
}

/// What the RPN's losses are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnchorCount {
    /// The sampled anchors.
    #[default]
    Sampled,
    /// The sampled positives of each image, or one if there is none, and its negatives, or one (mmdetection 0.6).
    AtLeastOneOfEach,
    /// As many anchors as may be sampled (detectron2 0.6 `RPN.losses`).
    BatchSize,
}

/// Where ground-truth boxes stand among the proposals that they join in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GtPlace {
    /// Behind them, matched by IoU like all others.
    #[default]
    Last,
    /// Before them, each matched with itself.
    First,
}

/// In which pixels near-duplicates among detections are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionScale {
    /// The network's.
    #[default]
    Network,
    /// The original image's (mmdetection 0.6 `get_det_bboxes` with `rescale`): the `+ 1` of inclusive boxes weighs more or less there.
    Original,
}

/// Level and extent of a region in ROI Align.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoiRule {
    /// `floor(4 + log2(side / 224) + 1e-6)`; where cell centres lie at whole coordinates, a region is at least one cell wide
    /// (torchvision 0.26).
    #[default]
    Torchvision,
    /// `2 + floor(log2(side / 56 + 1e-6))`; a region is as wide as it is (mmdetection 0.6).
    Released,
}

/// Conventions of the region proposal network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpnConventions {
    /// Of proposals.
    pub boxes: BoxConvention,
    /// Of anchors.
    pub anchors: AnchorLayout,
    /// Of anchors in training.
    pub scope: AnchorScope,
    /// Of predicted sizes.
    pub clamp: DeltaClamp,
    /// Of matching.
    pub best: BestCandidates,
    /// Of both losses.
    pub count: AnchorCount,
}

impl Default for RpnConventions {
    fn default() -> Self {
        Self {
            boxes: BoxConvention::Continuous,
            anchors: AnchorLayout::Corners,
            scope: AnchorScope::All,
            clamp: DeltaClamp::Growth,
            best: BestCandidates::Kept,
            count: AnchorCount::Sampled,
        }
    }
}

/// Conventions of the box branch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BoxConventions {
    /// Of detections.
    pub boxes: BoxConvention,
    /// Of predicted sizes.
    pub clamp: DeltaClamp,
    /// Of matching.
    pub best: BestCandidates,
    /// Of candidates in training.
    pub gt_place: GtPlace,
    /// Of detections.
    pub suppression: SuppressionScale,
}

impl Default for BoxConventions {
    fn default() -> Self {
        Self {
            boxes: BoxConvention::Continuous,
            clamp: DeltaClamp::Growth,
            best: BestCandidates::ByThreshold,
            gt_place: GtPlace::Last,
            suppression: SuppressionScale::Network,
        }
    }
}

/// Conventions of the mask branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskConventions {
    /// What masks learn.
    pub target: MaskTarget,
}
