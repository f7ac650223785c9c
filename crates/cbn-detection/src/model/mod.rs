//! Backbone, neck, RPN and ROI heads.

pub mod backbone;
mod config;
mod detector;
mod host;
mod init;
pub mod neck;
pub mod roi;
pub mod rpn;
pub mod weights;

pub use config::{
    AnchorConfig, AnchorCount, AnchorLayout, AnchorScope, BoxBranchConfig, BoxConventions, BoxHeadKind, ConfigError,
    DetectorConfig, FpnConfig, GtPlace, MaskBranchConfig, MaskConventions, NUM_LEVELS, ProposalConfig, ResNetConfig,
    ResNetDepth, RoiPoolConfig, RoiRule, RpnConfig, RpnConventions, SuppressionScale,
};
pub use detector::Detector;
