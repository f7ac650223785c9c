//! Every number of a detector, with its default.
//!
//! Names and defaults are those of torchvision 0.26 `maskrcnn_resnet50_fpn`, apart from what a field's doc says.
//! A missing field takes its default, an unknown field is an error.

mod conventions;
mod error;
mod roi;
mod rpn;

use cbn::process_group::Peers;
use cbn::{FrozenNormConfig, NormConfig};
use serde::{Deserialize, Serialize};

pub use self::conventions::{
    AnchorCount, AnchorLayout, AnchorScope, BoxConventions, GtPlace, MaskConventions, RoiRule, RpnConventions,
    SuppressionScale,
};
pub use self::error::ConfigError;
use self::error::positive;
pub use self::roi::{BoxBranchConfig, BoxHeadKind, MaskBranchConfig, RoiPoolConfig};
pub use self::rpn::{AnchorConfig, ProposalConfig, RpnConfig};

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
    /// The same, with norms that know the other processes, see [`cbn::NormConfig::among`].
    #[must_use]
    pub fn among(mut self, peers: &Peers) -> Self {
        let mask_norm = self.mask_head.as_mut().map(|mask_head| &mut mask_head.norm);
        let norms = [&mut self.backbone.norm, &mut self.neck.norm, &mut self.box_head.norm];
        for norm in norms.into_iter().chain(mask_norm) {
            *norm = norm.clone().among(peers);
        }
        self
    }

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
    /// Whether a bottleneck halves the resolution in its first 1x1 convolution, as the network of 2015 (Caffe's) does, and not in the 3x3 one.
    /// Default: no, as in torchvision.
    pub stride_in_1x1: bool,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            depth: ResNetDepth::R50,
            norm: NormConfig::Frozen(FrozenNormConfig::default()),
            frozen_stages: 0,
            stride_in_1x1: false,
        }
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
