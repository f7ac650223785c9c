//! The numbers of the region proposal network.

use serde::{Deserialize, Serialize};

use super::NUM_LEVELS;
use super::conventions::RpnConventions;
use super::error::{ConfigError, above_zero, positive, unit};

/// The region proposal network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpnConfig {
    /// 3x3 convolutions, each with ReLU, before the predictors. Default: 1; torchvision's `_v2` models have 2.
    pub num_convs: usize,
    /// Anchor shapes.
    pub anchors: AnchorConfig,
    /// An anchor with at least this IoU to a ground-truth box is positive. Default: 0.7.
    pub positive_iou: f32,
    /// An anchor below this IoU to all ground-truth boxes is negative. Default: 0.3.
    pub negative_iou: f32,
    /// Anchors sampled per image for the loss. Default: 256.
    pub batch_size_per_image: usize,
    /// At most this share of the sampled anchors is positive. Default: 0.5.
    pub positive_fraction: f32,
    /// Proposals handed on in training. Default: 2000 per level, 2000 per image.
    pub train_proposals: ProposalConfig,
    /// Proposals handed on in inference. Default: 1000 per level, 1000 per image.
    pub test_proposals: ProposalConfig,
    /// A proposal that overlaps a better one of its level by more than this IoU is dropped. Default: 0.7.
    pub nms_threshold: f64,
    /// Where smooth L1 turns from quadratic to linear. Default: 1/9.
    pub smooth_l1_beta: f32,
    /// What other code bases do otherwise. Default: nothing.
    pub conventions: RpnConventions,
}

impl Default for RpnConfig {
    fn default() -> Self {
        Self {
            num_convs: 1,
            anchors: AnchorConfig::default(),
            positive_iou: 0.7,
            negative_iou: 0.3,
            batch_size_per_image: 256,
            positive_fraction: 0.5,
            train_proposals: ProposalConfig { pre_nms_top_n: 2000, post_nms_top_n: 2000 },
            test_proposals: ProposalConfig { pre_nms_top_n: 1000, post_nms_top_n: 1000 },
            nms_threshold: 0.7,
            smooth_l1_beta: 1.0 / 9.0,
            conventions: RpnConventions::default(),
        }
    }
}

impl RpnConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        positive("rpn.num_convs", self.num_convs)?;
        self.anchors.validate()?;
        unit("rpn.positive_iou", self.positive_iou)?;
        unit("rpn.negative_iou", self.negative_iou)?;
        if self.negative_iou > self.positive_iou {
            return Err(ConfigError::IouOrder {
                place: "rpn",
                negative: self.negative_iou,
                positive: self.positive_iou,
            });
        }
        positive("rpn.batch_size_per_image", self.batch_size_per_image)?;
        unit("rpn.positive_fraction", self.positive_fraction)?;
        for (name, proposals) in
            [("rpn.train_proposals", &self.train_proposals), ("rpn.test_proposals", &self.test_proposals)]
        {
            positive(name, proposals.pre_nms_top_n.min(proposals.post_nms_top_n))?;
        }
        unit("rpn.nms_threshold", self.nms_threshold as f32)?;
        above_zero("rpn.smooth_l1_beta", self.smooth_l1_beta)
    }
}

/// Anchor shapes: every size with every ratio, at every position of a level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnchorConfig {
    /// Square roots of the anchors' areas in pixels, for each of the five levels.
    /// Default: `[[32], [64], [128], [256], [512]]`.
    pub sizes: Vec<Vec<f32>>,
    /// Height over width. Default: `[0.5, 1, 2]`.
    pub aspect_ratios: Vec<f32>,
}

impl Default for AnchorConfig {
    fn default() -> Self {
        Self {
            sizes: [32.0, 64.0, 128.0, 256.0, 512.0].iter().map(|&size| vec![size]).collect(),
            aspect_ratios: vec![0.5, 1.0, 2.0],
        }
    }
}

impl AnchorConfig {
    /// Anchors at one position: the same number on every level, because all levels share one head.
    pub fn num_per_position(&self) -> usize {
        self.sizes.first().map_or(0, Vec::len) * self.aspect_ratios.len()
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.sizes.len() != NUM_LEVELS {
            return Err(ConfigError::AnchorLevels { found: self.sizes.len() });
        }
        positive("rpn.anchors, sizes times aspect_ratios", self.num_per_position())?;
        if self.sizes.iter().any(|level| level.len() != self.sizes[0].len()) {
            return Err(ConfigError::AnchorCounts { found: self.sizes.iter().map(Vec::len).collect() });
        }
        for &value in self.sizes.iter().flatten().chain(&self.aspect_ratios) {
            if !(value.is_finite() && value > 0.0) {
                return Err(ConfigError::AnchorShape { found: value });
            }
        }
        Ok(())
    }
}

/// How many proposals survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalConfig {
    /// Best anchors of each level that enter NMS.
    pub pre_nms_top_n: usize,
    /// Best proposals of an image, over all levels, after NMS.
    pub post_nms_top_n: usize,
}
