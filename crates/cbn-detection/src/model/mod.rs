//! Backbone, neck, RPN and ROI heads.

mod config;

pub use config::{
    AnchorConfig, BoxBranchConfig, BoxHeadKind, ConfigError, DetectorConfig, FpnConfig, MaskBranchConfig, NUM_LEVELS,
    ProposalConfig, ResNetConfig, ResNetDepth, RoiPoolConfig, RpnConfig,
};
