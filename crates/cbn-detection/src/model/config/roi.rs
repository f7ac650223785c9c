//! The numbers of the branches that look at regions.

use cbn::NormConfig;
use serde::{Deserialize, Serialize};

use super::conventions::{BoxConventions, MaskConventions, RoiRule};
use super::error::{ConfigError, above_zero, positive, unit};

/// ROI Align of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoiPoolConfig {
    /// Bins along each side.
    pub side: usize,
    /// Samples along each side of a bin; 0 takes as many as the roi has feature cells per bin.
    pub sampling_ratio: usize,
    /// Whether feature cell centres lie at half coordinates (detectron2), or at whole ones (torchvision's models).
    pub aligned: bool,
    /// Which level a region's features come from, and how small a region may be. Default: as in torchvision.
    #[serde(default)]
    pub rule: RoiRule,
}

impl RoiPoolConfig {
    /// Two samples along each side of a bin, as in all published recipes.
    const fn with_side(side: usize) -> Self {
        Self { side, sampling_ratio: 2, aligned: false, rule: RoiRule::Torchvision }
    }
}

/// Classification and box regression of proposals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BoxBranchConfig {
    /// Layers between the pooled features and the predictors. Default: two fully connected ones.
    pub head: BoxHeadKind,
    /// Norm of the head's convolutions, if it has any. Default: none, they have a bias.
    pub norm: NormConfig,
    /// Width of the fully connected layers. Default: 1024.
    pub fc_dim: usize,
    /// Default: 7 bins, 2 samples, not aligned.
    pub pool: RoiPoolConfig,
    /// A proposal with at least this IoU to a ground-truth box is an object, any other is background. Default: 0.5.
    pub positive_iou: f32,
    /// Proposals sampled per image for the loss. Default: 512.
    pub batch_size_per_image: usize,
    /// At most this share of the sampled proposals is positive. Default: 0.25.
    pub positive_fraction: f32,
    /// Scales of dx, dy, dw, dh: the network predicts the delta times its weight. Default: `[10, 10, 5, 5]`.
    pub box_weights: [f32; 4],
    /// Where smooth L1 turns from quadratic to linear. Default: 1/9.
    pub smooth_l1_beta: f32,
    /// Detections must score above this. Default: 0.05.
    pub score_threshold: f32,
    /// A detection that overlaps a better one of its class by more than this IoU is dropped. Default: 0.5.
    pub nms_threshold: f64,
    /// Best detections of an image that are kept. Default: 100.
    pub max_detections: usize,
    /// What other code bases do otherwise. Default: nothing.
    pub conventions: BoxConventions,
}

impl Default for BoxBranchConfig {
    fn default() -> Self {
        Self {
            head: BoxHeadKind::TwoFc,
            norm: NormConfig::Identity,
            fc_dim: 1024,
            pool: RoiPoolConfig::with_side(7),
            positive_iou: 0.5,
            batch_size_per_image: 512,
            positive_fraction: 0.25,
            box_weights: [10.0, 10.0, 5.0, 5.0],
            smooth_l1_beta: 1.0 / 9.0,
            score_threshold: 0.05,
            nms_threshold: 0.5,
            max_detections: 100,
            conventions: BoxConventions::default(),
        }
    }
}

impl BoxBranchConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        positive("box_head.fc_dim", self.fc_dim)?;
        positive("box_head.pool.side", self.pool.side)?;
        unit("box_head.positive_iou", self.positive_iou)?;
        positive("box_head.batch_size_per_image", self.batch_size_per_image)?;
        unit("box_head.positive_fraction", self.positive_fraction)?;
        for weight in self.box_weights {
            if !(weight.is_finite() && weight > 0.0) {
                return Err(ConfigError::BoxWeight { found: weight });
            }
        }
        above_zero("box_head.smooth_l1_beta", self.smooth_l1_beta)?;
        unit("box_head.score_threshold", self.score_threshold)?;
        unit("box_head.nms_threshold", self.nms_threshold as f32)?;
        positive("box_head.max_detections", self.max_detections)
    }
}

/// Layers between the pooled features and the box predictors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxHeadKind {
    /// Two fully connected layers (FPN paper; torchvision `TwoMLPHead`). It has no norm.
    TwoFc,
    /// Four 3x3 convolutions with norm, one fully connected layer (GN paper; the released CBN recipes).
    FourConvOneFc,
}

/// Instance masks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskBranchConfig {
    /// Default: 14 bins, 2 samples, not aligned. Masks have twice as many cells along a side.
    pub pool: RoiPoolConfig,
    /// 3x3 convolutions before the deconvolution. Default: 4.
    pub num_convs: usize,
    /// Their channels, and the deconvolution's. Default: 256.
    pub channels: usize,
    /// Norm of the convolutions. Default: none, they have a bias.
    pub norm: NormConfig,
    /// What other code bases do otherwise. Default: nothing.
    pub conventions: MaskConventions,
}

impl Default for MaskBranchConfig {
    fn default() -> Self {
        Self {
            pool: RoiPoolConfig::with_side(14),
            num_convs: 4,
            channels: 256,
            norm: NormConfig::Identity,
            conventions: MaskConventions::default(),
        }
    }
}

impl MaskBranchConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        positive("mask_head.pool.side", self.pool.side)?;
        positive("mask_head.channels", self.channels)
    }
}
