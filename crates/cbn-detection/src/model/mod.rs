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
    AnchorConfig, BoxBranchConfig, BoxHeadKind, ConfigError, DetectorConfig, FpnConfig, MaskBranchConfig, NUM_LEVELS,
    ProposalConfig, ResNetConfig, ResNetDepth, RoiPoolConfig, RpnConfig,
};
pub use detector::Detector;
