//! Cross-Iteration Batch Normalization and its peers as layers for Burn.

mod feature_map;
mod geometry;
pub mod ops;

pub use self::feature_map::FeatureMap;
pub use self::geometry::ConvGeometry;
