//! Faster and Mask R-CNN on Burn: data, models, training and COCO evaluation.

pub mod agree;
pub mod data;
pub mod eval;
pub mod export;
pub mod files;
pub mod model;
pub mod ops;
pub mod recipe;
pub mod structures;
pub mod train;

/// Compiles and runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
