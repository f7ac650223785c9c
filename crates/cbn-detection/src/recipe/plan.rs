//! A recipe with every number known.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::schema::Expected;
use crate::data::{LoaderConfig, TransformConfig};
use crate::model::DetectorConfig;
use crate::train::TrainConfig;

/// What a run does, in full: no default is left to apply and every length is in iterations.
///
/// A checkpoint carries it, so that inference needs no recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// From the recipe.
    pub description: String,
    /// The detector.
    pub model: DetectorConfig,
    /// From images to network pixels.
    pub transform: TransformConfig,
    /// Training batches.
    pub train_loader: LoaderConfig,
    /// Test batches.
    pub test_loader: LoaderConfig,
    /// Whether inference looks at each image mirrored as well.
    #[serde(default)]
    pub test_flip: bool,
    /// Optimisation.
    pub train: TrainConfig,
    /// Weights that the backbone starts from, with torchvision's names.
    pub backbone_weights: Option<PathBuf>,
    /// Weights that the detector starts from, whoever named them.
    #[serde(default)]
    pub init: Option<PathBuf>,
    /// Whether class heads start anew whatever `init` has.
    #[serde(default)]
    pub replace_class_heads: bool,
    /// COCO's three limits of detections per image; the last is the one of AP.
    pub max_detections: [usize; 3],
    /// The result that the run should reach.
    pub expected: Option<Expected>,
}
