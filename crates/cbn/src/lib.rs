//! Cross-Iteration Batch Normalization and its peers as layers for Burn.

mod activation;
mod conv;
mod conv_norm;
mod convert;
mod feature_map;
mod geometry;
pub mod norm;
pub mod ops;

pub use self::activation::Activation;
pub use self::conv::{Conv, ConvConfig};
pub use self::conv_norm::{ConvNorm, ConvNormConfig};
pub use self::convert::ConvertError;
pub use self::feature_map::FeatureMap;
pub use self::geometry::ConvGeometry;
pub use self::norm::{BatchNormConfig, CbnConfig, ConvSite, FrozenNormConfig, GroupNormConfig, Norm, NormConfig};
