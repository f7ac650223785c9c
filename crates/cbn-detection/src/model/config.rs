//! Every number of a detector, with its default.
//!
//! Names and defaults are those of torchvision 0.26 `maskrcnn_resnet50_fpn`, apart from what a field's doc says.
//! A missing field takes its default, an unknown field is an error.

use cbn::{FrozenNormConfig, NormConfig};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Pyramid levels that the FPN puts out: P2 to P6.
pub const NUM_LEVELS: usize = 5;

/// A Faster R-CNN, or a Mask R-CNN if `mask_head` is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorConfig {
    /// Object classes, background not counted.
    pub num_classes: usize,
    /// The ResNet.
    #[serde(default)]
    pub backbone: ResNetConfig,
    /// The feature pyramid.
    #[serde(default)]
    pub neck: FpnConfig,
    /// The region proposal network.
    #[serde(default)]
    pub rpn: RpnConfig,
    /// Classification and box regression of proposals.
    #[serde(default)]
    pub box_head: BoxBranchConfig,
    /// Instance masks. Default: none, a Faster R-CNN.
    #[serde(default)]
    pub mask_head: Option<MaskBranchConfig>,
}

impl DetectorConfig {
    /// A Faster R-CNN with every default.
    pub fn new(num_classes: usize) -> Self {
        Self {
            num_classes,
            backbone: ResNetConfig::default(),
            neck: FpnConfig::default(),
            rpn: RpnConfig::default(),
            box_head: BoxBranchConfig::default(),
            mask_head: None,
        }
    }

    /// The same detector with a mask branch.
    #[must_use]
    pub fn with_mask_head(mut self, mask_head: MaskBranchConfig) -> Self {
        self.mask_head = Some(mask_head);
        self
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// The first field whose value no detector can be made of.
    pub fn validate(&self) -> Result<(), ConfigError> {
        positive("num_classes", self.num_classes)?;
        if self.backbone.frozen_stages > 4 {
            return Err(ConfigError::FrozenStages { found: self.backbone.frozen_stages });
        }
        positive("neck.channels", self.neck.channels)?;
        self.rpn.validate()?;
        self.box_head.validate()?;
        self.mask_head.as_ref().map_or(Ok(()), MaskBranchConfig::validate)
    }
}

/// The residual network, without its classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResNetConfig {
    /// Which of the residual networks. Default: ResNet-50.
    pub depth: ResNetDepth,
    /// Norm of every convolution. Default: frozen.
    pub norm: NormConfig,
    /// How many stages do not train, counted from the stem: 0 none, 1 the stem and the first stage, 4 all.
    /// Default: 0.
    pub frozen_stages: usize,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self { depth: ResNetDepth::R50, norm: NormConfig::Frozen(FrozenNormConfig::default()), frozen_stages: 0 }
    }
}

/// The number of layers of a residual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResNetDepth {
    /// ResNet-18, basic blocks.
    R18,
    /// ResNet-34, basic blocks.
    R34,
    /// ResNet-50, bottlenecks.
    R50,
    /// ResNet-101, bottlenecks.
    R101,
}

/// The feature pyramid network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FpnConfig {
    /// Channels of every level. Default: 256.
    pub channels: usize,
    /// Norm of the lateral and the output convolutions. Default: none, they have a bias.
    pub norm: NormConfig,
}

impl Default for FpnConfig {
    fn default() -> Self {
        Self { channels: 256, norm: NormConfig::Identity }
    }
}

/// The region proposal network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpnConfig {
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
}

impl Default for RpnConfig {
    fn default() -> Self {
        Self {
            anchors: AnchorConfig::default(),
            positive_iou: 0.7,
            negative_iou: 0.3,
            batch_size_per_image: 256,
            positive_fraction: 0.5,
            train_proposals: ProposalConfig { pre_nms_top_n: 2000, post_nms_top_n: 2000 },
            test_proposals: ProposalConfig { pre_nms_top_n: 1000, post_nms_top_n: 1000 },
            nms_threshold: 0.7,
            smooth_l1_beta: 1.0 / 9.0,
        }
    }
}

impl RpnConfig {
    fn validate(&self) -> Result<(), ConfigError> {
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

    fn validate(&self) -> Result<(), ConfigError> {
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
}

impl Default for BoxBranchConfig {
    fn default() -> Self {
        Self {
            head: BoxHeadKind::TwoFc,
            norm: NormConfig::Identity,
            fc_dim: 1024,
            pool: RoiPoolConfig { side: 7, sampling_ratio: 2, aligned: false },
            positive_iou: 0.5,
            batch_size_per_image: 512,
            positive_fraction: 0.25,
            box_weights: [10.0, 10.0, 5.0, 5.0],
            smooth_l1_beta: 1.0 / 9.0,
            score_threshold: 0.05,
            nms_threshold: 0.5,
            max_detections: 100,
        }
    }
}

impl BoxBranchConfig {
    fn validate(&self) -> Result<(), ConfigError> {
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
}

impl Default for MaskBranchConfig {
    fn default() -> Self {
        Self {
            pool: RoiPoolConfig { side: 14, sampling_ratio: 2, aligned: false },
            num_convs: 4,
            channels: 256,
            norm: NormConfig::Identity,
        }
    }
}

impl MaskBranchConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        positive("mask_head.pool.side", self.pool.side)?;
        positive("mask_head.channels", self.channels)
    }
}

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

fn positive(field: &'static str, value: usize) -> Result<(), ConfigError> {
    if value == 0 { Err(ConfigError::Zero { field }) } else { Ok(()) }
}

fn unit(field: &'static str, found: f32) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&found) { Ok(()) } else { Err(ConfigError::NotInUnitInterval { field, found }) }
}

fn above_zero(field: &'static str, found: f32) -> Result<(), ConfigError> {
    if found.is_finite() && found > 0.0 { Ok(()) } else { Err(ConfigError::NotAboveZero { field, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_json() {
        let config = DetectorConfig::new(80).with_mask_head(MaskBranchConfig::default());
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<DetectorConfig>(&text).unwrap(), config);
    }

    #[test]
    fn missing_fields_take_their_defaults_and_unknown_ones_are_refused() {
        let config: DetectorConfig =
            serde_json::from_str(r#"{"num_classes": 3, "rpn": {"nms_threshold": 0.6}}"#).unwrap();
        let mut expected = DetectorConfig::new(3);
        expected.rpn.nms_threshold = 0.6;
        assert_eq!(config, expected);
        let error = serde_json::from_str::<DetectorConfig>(r#"{"num_classes": 3, "rpm": {}}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `rpm`"), "{error}");
    }

    #[test]
    fn levels_must_have_equally_many_anchors() {
        let mut config = DetectorConfig::new(3);
        config.rpn.anchors.sizes[2].push(160.0);
        assert_eq!(config.validate(), Err(ConfigError::AnchorCounts { found: vec![1, 1, 2, 1, 1] }));
    }
}
