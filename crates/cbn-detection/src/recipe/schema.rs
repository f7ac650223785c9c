//! The TOML form of a recipe.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::RecipeError;
use super::conventions::Conventions;
use super::norm::NormSection;
use super::overrides;
use crate::data::TransformConfig;
use crate::model::{BoxBranchConfig, FpnConfig, MaskBranchConfig, ResNetConfig, RpnConfig};
use crate::train::EmaConfig;

/// A recipe as its author wrote it: one file per result that someone wants to repeat.
///
/// Unknown keys are errors. Lengths are in epochs or iterations; [`super::resolve`] turns them into iterations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// One line for people: what this trains.
    pub description: String,
    /// Whose arithmetic it repeats. Default: this library's.
    #[serde(default)]
    pub conventions: Conventions,
    /// The detector, but for its norms and its number of classes.
    pub model: ModelSection,
    /// The norm of each part of the detector.
    pub norm: NormSection,
    /// How images become batches.
    #[serde(default)]
    pub data: DataSection,
    /// Optimisation.
    pub train: TrainSection,
    /// Inference and evaluation.
    #[serde(default)]
    pub test: TestSection,
    /// The result that a run should reach.
    pub expected: Option<Expected>,
}

impl Recipe {
    /// Reads a recipe file and applies `path=value` overrides in their order.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or it or an override does not fit the schema.
    pub fn load(path: &Path, assignments: &[String]) -> Result<Self, RecipeError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path, assignments)
    }

    /// The same for text that is already there; `path` is what errors call it.
    ///
    /// # Errors
    ///
    /// The text or an override does not fit the schema.
    pub fn parse(text: &str, path: &Path, assignments: &[String]) -> Result<Self, RecipeError> {
        // The file is checked before any override, because only its own text has lines to name.
        let recipe: Self = toml::from_str(text).map_err(|error| located(&error, text, path))?;
        if assignments.is_empty() {
            return Ok(recipe);
        }
        let tree: toml::Table = toml::from_str(text).map_err(|error| located(&error, text, path))?;
        overrides::apply(tree, assignments)
    }
}

fn located(error: &toml::de::Error, text: &str, path: &Path) -> RecipeError {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    RecipeError::Parse {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message: error.message().to_owned(),
        source_line: text[line_start..].lines().next().unwrap_or_default().to_owned(),
    }
}

/// The parts of a detector, see [`crate::model::DetectorConfig`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// The residual network.
    pub backbone: ResNetConfig,
    /// The feature pyramid.
    pub neck: FpnConfig,
    /// The region proposal network.
    pub rpn: RpnConfig,
    /// Classes and boxes.
    pub box_head: BoxBranchConfig,
    /// Masks. With this section the detector is a Mask R-CNN, without it a Faster R-CNN.
    pub mask_head: Option<MaskBranchConfig>,
}

/// How images become batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Resize, flip, normalise, pad. Tests take the last of `min_side_px` and never flip.
    pub transform: TransformConfig,
    /// Whether a batch holds only wide or only tall images.
    pub aspect_grouping: bool,
    /// Threads that read and prepare images.
    pub num_workers: usize,
}

impl Default for DataSection {
    fn default() -> Self {
        Self { transform: TransformConfig::default(), aspect_grouping: true, num_workers: 2 }
    }
}

/// Optimisation: SGD with momentum, linear warm-up, steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Of the whole run.
    pub length: Length,
    /// Images of a batch.
    pub batch_size: usize,
    /// After warm-up, before the first drop.
    pub learning_rate: f64,
    /// The images per step that `learning_rate` is for: with more or fewer it is scaled in proportion (Goyal et al. 2017). Default: it is
    /// taken as it is.
    #[serde(default)]
    pub learning_rate_batch_size: Option<usize>,
    /// Default: 0.9.
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// On all parameters, norms and biases included. Default: 1e-4.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// Default: none.
    #[serde(default)]
    pub warmup: Option<Warmup>,
    /// When the rate drops, ascending. Default: never.
    #[serde(default)]
    pub drops: Option<Moments>,
    /// What a drop multiplies the rate with. Default: 0.1.
    #[serde(default = "default_gamma")]
    pub gamma: f64,
    /// Half a cosine over the whole run instead of drops: `{ final_ratio = 0.0 }` ends at a rate of 0. Default: none.
    #[serde(default)]
    pub cosine: Option<CosineSection>,
    /// Parts whose weights stay as they are, by module path: `["backbone", "neck", "rpn.head"]`. Statistics of their norms go on, unless the
    /// norm is frozen as well. Default: none.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Batches of `batch_size` images whose mean gradient makes one step: what memory does not hold at once. An iteration is a step. To norms
    /// each batch is a batch of its own. Default: 1.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// An average of the weights over the steps, which evaluations and inference take. Default: none.
    #[serde(default)]
    pub ema: Option<EmaConfig>,
    /// Limit of the L2 norm over all gradients. Default: none.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// Of everything random. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Default: each epoch.
    #[serde(default = "one_epoch")]
    pub evaluate_every: Length,
    /// The validation images that evaluations during training take: the first so many of the annotations' list, the last evaluation
    /// included (`cbn test --max-images N` takes the same). Default: all.
    #[serde(default)]
    pub evaluate_images: Option<usize>,
    /// Default: each epoch. One is written before each evaluation as well.
    #[serde(default = "one_epoch")]
    pub checkpoint_every: Length,
    /// The newest checkpoints that stay, beside the best one. Default: 2.
    #[serde(default = "default_keep_checkpoints")]
    pub keep_checkpoints: usize,
    /// Weights that the backbone starts from, with torchvision's names. Default: random ones.
    #[serde(default)]
    pub backbone_weights: Option<PathBuf>,
    /// Weights that the whole detector starts from: a checkpoint, or a file of torchvision, mmdetection or detectron2. Default: random ones.
    #[serde(default)]
    pub init: Option<PathBuf>,
    /// Whether the tensors of `init` that count classes are left out, so that it may be of other classes. Default: no.
    #[serde(default)]
    pub replace_class_heads: bool,
}

fn default_momentum() -> f64 {
    0.9
}

fn default_weight_decay() -> f64 {
    1e-4
}

fn default_gamma() -> f64 {
    0.1
}

fn one() -> usize {
    1
}

fn default_keep_checkpoints() -> usize {
    2
}

fn one_epoch() -> Length {
    Length::Epochs(1)
}

/// A rate that falls along half a cosine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CosineSection {
    /// The share of the learning rate that is left at the end.
    pub final_ratio: f64,
}

/// A rate that climbs linearly at the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// How long.
    pub length: Length,
    /// The first iteration's share of the learning rate.
    pub ratio: f64,
}

/// A number of epochs or iterations: `{ epochs = 12 }`, `{ iterations = 90000 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Passes over the training images.
    Epochs(usize),
    /// Optimiser steps.
    Iterations(usize),
}

impl Display for Length {
    /// As recipes have it.
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epochs(epochs) => write!(formatter, "{{ epochs = {epochs} }}"),
            Self::Iterations(iterations) => write!(formatter, "{{ iterations = {iterations} }}"),
        }
    }
}

/// For command lines: `2ep`, `100it`.
impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse().ok();
        let epochs = text.strip_suffix("ep").and_then(number).map(Self::Epochs);
        let iterations = text.strip_suffix("it").and_then(number).map(Self::Iterations);
        epochs.or(iterations).ok_or_else(|| "a number of iterations or epochs, as in 100it or 2ep".to_owned())
    }
}

impl Length {
    pub(super) fn iterations(self, iterations_per_epoch: usize) -> usize {
        match self {
            Self::Epochs(epochs) => epochs * iterations_per_epoch,
            Self::Iterations(iterations) => iterations,
        }
    }
}

/// Points of a run: `{ epochs = [8, 11] }`, `{ iterations = [60000, 80000] }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moments {
    /// After so many passes over the training images.
    Epochs(Vec<usize>),
    /// After so many optimiser steps.
    Iterations(Vec<usize>),
}

/// Inference and evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestSection {
    /// Images per forward pass, padded to the largest of them: of images of different sizes, padding moves the scores a little. Default: 1.
    pub batch_size: usize,
    /// Whether each image is looked at mirrored as well, see [`crate::model::Detector::detect_with_mirror`]. It takes twice as long.
    pub flip: bool,
}

impl Default for TestSection {
    fn default() -> Self {
        Self { batch_size: 1, flip: false }
    }
}

/// The result that a run of the recipe should reach, in points as papers print them (37.6, not 0.376).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Who measured it, on what.
    pub source: String,
    /// How far a run may be off.
    pub tolerance: f64,
    /// Box AP over IoU 0.50 to 0.95.
    pub bbox_ap: f64,
    /// Box AP at IoU 0.50.
    pub bbox_ap50: Option<f64>,
    /// Box AP at IoU 0.75.
    pub bbox_ap75: Option<f64>,
    /// Mask AP over IoU 0.50 to 0.95.
    pub segm_ap: Option<f64>,
    /// Mask AP at IoU 0.50.
    pub segm_ap50: Option<f64>,
    /// Mask AP at IoU 0.75.
    pub segm_ap75: Option<f64>,
}
