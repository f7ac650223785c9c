//! From a recipe to a plan: the only place that turns epochs into iterations.

use super::conventions;
use super::norm::NormSpec;
use super::schema::{ModelSection, Moments, Recipe, TrainSection};
use super::{Plan, RecipeError};
use crate::data::{LoaderConfig, TransformConfig};
use crate::model::{DetectorConfig, MaskBranchConfig};
use crate::train::{CosineConfig, EmaConfig, ScheduleConfig, SgdConfig, TrainConfig};

/// Batches that workers hold ready: two per worker keep it busy while the other waits.
const QUEUED_BATCHES_PER_WORKER: usize = 2;

/// A ResNet's narrowest convolution; the channels of all others are multiples of it.
const RESNET_CHANNELS: usize = 64;

/// What a recipe has to know about its data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataFacts {
    /// Object classes.
    pub num_classes: usize,
    /// Steps of one pass over the training images, see [`DataFacts::new`].
    pub iterations_per_epoch: usize,
}

impl DataFacts {
    /// What training on this data comes to.
    ///
    /// `batches_per_epoch` is what the loader yields, see [`crate::data::TrainLoader::batches_per_epoch`].
    pub fn new(recipe: &Recipe, num_classes: usize, batches_per_epoch: usize) -> Self {
        Self { num_classes, iterations_per_epoch: batches_per_epoch / recipe.train.accumulate.max(1) }
    }
}

/// How the recipe's training batches are made.
pub fn train_loader(recipe: &Recipe) -> LoaderConfig {
    LoaderConfig {
        batch_size: recipe.train.batch_size,
        num_workers: recipe.data.num_workers,
        queue_batches: recipe.data.num_workers * QUEUED_BATCHES_PER_WORKER,
        seed: recipe.train.seed,
        aspect_grouping: recipe.data.aspect_grouping,
        with_masks: recipe.model.mask_head.is_some(),
        selection: recipe.conventions.selection(),
        ..LoaderConfig::default()
    }
}

/// How the recipe's test batches are made.
pub fn test_loader(recipe: &Recipe) -> LoaderConfig {
    LoaderConfig { batch_size: recipe.test.batch_size, with_masks: false, ..train_loader(recipe) }
}

/// How the recipe's images are prepared.
pub fn transform(recipe: &Recipe) -> TransformConfig {
    recipe.conventions.transform(&recipe.data.transform)
}

/// Fills in what the data set decides and checks every number.
///
/// # Errors
///
/// The first value that no run can be made of.
pub fn resolve(recipe: &Recipe, facts: DataFacts) -> Result<Plan, RecipeError> {
    positive("train.batch_size", recipe.train.batch_size)?;
    positive("test.batch_size", recipe.test.batch_size)?;
    if recipe.train.init.is_some() && recipe.train.backbone_weights.is_some() {
        return Err(fault(
            "train.init",
            "given",
            "but train.backbone_weights is given as well: a detector has a backbone",
        ));
    }
    if recipe.train.replace_class_heads && recipe.train.init.is_none() {
        return Err(fault("train.replace_class_heads", "true", "but there is no train.init to take the rest from"));
    }
    recipe.data.transform.validate()?;
    conventions::refuse_elsewhere(recipe)?;
    let model = recipe.conventions.detector(detector(recipe, facts)?);
    model.validate()?;
    Ok(Plan {
        description: recipe.description.clone(),
        max_detections: [1, 10, model.box_head.max_detections.max(100)],
        model,
        transform: transform(recipe),
        train_loader: train_loader(recipe),
        test_loader: test_loader(recipe),
        test_flip: recipe.test.flip,
        train: training(&recipe.train, facts)?,
        backbone_weights: recipe.train.backbone_weights.clone(),
        init: recipe.train.init.clone(),
        replace_class_heads: recipe.train.replace_class_heads,
        expected: recipe.expected.clone(),
    })
}

fn detector(recipe: &Recipe, facts: DataFacts) -> Result<DetectorConfig, RecipeError> {
    let model = &recipe.model;
    let norm = &recipe.norm;
    if model.mask_head.is_some() != norm.mask_head.is_some() {
        let (found, expected) = match norm.mask_head {
            Some(_) => ("given", "but there is no [model.mask_head]"),
            None => ("missing", "but [model.mask_head] needs a norm"),
        };
        return Err(RecipeError::Value { key: "norm.mask_head", found: found.to_owned(), expected });
    }
    refuse_norms_elsewhere(model)?;
    let place = |key, spec: NormSpec, channels| match spec.fault(channels) {
        Some(reason) => Err(RecipeError::Norm { key, reason }),
        None => Ok(spec.to_config(facts.iterations_per_epoch)),
    };
    let mut config = DetectorConfig {
        num_classes: facts.num_classes,
        backbone: model.backbone.clone(),
        neck: model.neck.clone(),
        rpn: model.rpn.clone(),
        box_head: model.box_head.clone(),
        mask_head: model.mask_head.clone(),
    };
    config.backbone.norm = place("norm.backbone", norm.backbone, RESNET_CHANNELS)?;
    config.neck.norm = place("norm.neck", norm.neck, model.neck.channels)?;
    config.box_head.norm = place("norm.box_head", norm.box_head, model.neck.channels)?;
    if let (Some(mask_head), Some(spec)) = (&mut config.mask_head, norm.mask_head) {
        mask_head.norm = place("norm.mask_head", spec, mask_head.channels)?;
    }
    Ok(config)
}

/// The detector's parts have a norm field each, but in a recipe norms stand in `[norm]`, where they have units.
fn refuse_norms_elsewhere(model: &ModelSection) -> Result<(), RecipeError> {
    let default = ModelSection::default();
    let mask_norm = |mask_head: &Option<MaskBranchConfig>| mask_head.clone().unwrap_or_default().norm;
    let places = [
        ("model.backbone.norm", &model.backbone.norm, &default.backbone.norm),
        ("model.neck.norm", &model.neck.norm, &default.neck.norm),
        ("model.box_head.norm", &model.box_head.norm, &default.box_head.norm),
        ("model.mask_head.norm", &mask_norm(&model.mask_head), &mask_norm(&None)),
    ];
    match places.into_iter().find(|(_, found, default)| found != default) {
        Some((key, ..)) => Err(fault(key, "given", "but a recipe names its norms in [norm]")),
        None => Ok(()),
    }
}

fn training(train: &TrainSection, facts: DataFacts) -> Result<TrainConfig, RecipeError> {
    let per_epoch = facts.iterations_per_epoch;
    let num_iterations = positive("train.length", train.length.iterations(per_epoch))?;
    let config = TrainConfig {
        num_iterations,
        iterations_per_epoch: per_epoch,
        schedule: schedule(train, per_epoch)?,
        optimizer: SgdConfig {
            momentum: not_negative("train.momentum", train.momentum)?,
            weight_decay: not_negative("train.weight_decay", train.weight_decay)?,
        },
        accumulate: positive("train.accumulate", train.accumulate)?,
        ema: train.ema.map(ema_config).transpose()?,
        clip_norm: train.clip_norm.map(|limit| above_zero("train.clip_norm", limit)).transpose()?,
        freeze: train.freeze.clone(),
        seed: train.seed,
        evaluate_every: positive("train.evaluate_every", train.evaluate_every.iterations(per_epoch))?,
        evaluate_images: train.evaluate_images.map(|images| positive("train.evaluate_images", images)).transpose()?,
        checkpoint_every: positive("train.checkpoint_every", train.checkpoint_every.iterations(per_epoch))?,
        keep_checkpoints: positive("train.keep_checkpoints", train.keep_checkpoints)?,
    };
    Ok(config)
}

fn ema_config(ema: EmaConfig) -> Result<EmaConfig, RecipeError> {
    let key = "train.ema.decay";
    if above_zero(key, ema.decay)? < 1.0 { Ok(ema) } else { Err(fault(key, ema.decay, "it must be below 1")) }
}

fn schedule(train: &TrainSection, per_epoch: usize) -> Result<ScheduleConfig, RecipeError> {
    let drops = match &train.drops {
        None => Vec::new(),
        Some(Moments::Epochs(epochs)) => epochs.iter().map(|epoch| epoch * per_epoch).collect(),
        Some(Moments::Iterations(iterations)) => iterations.clone(),
    };
    if !drops.is_sorted_by(|a, b| a < b) {
        return Err(RecipeError::Value {
            key: "train.drops",
            found: format!("{drops:?} (iterations)"),
            expected: "each must come after the one before",
        });
    }
    let (warmup_iterations, warmup_ratio) = match train.warmup {
        None => (0, 1.0),
        Some(warmup) => (warmup.length.iterations(per_epoch), not_negative("train.warmup.ratio", warmup.ratio)?),
    };
    let share = match train.learning_rate_batch_size {
        None => 1.0,
        Some(images) => {
            (train.batch_size * train.accumulate) as f64 / positive("train.learning_rate_batch_size", images)? as f64
        }
    };
    Ok(ScheduleConfig {
        base_learning_rate: above_zero("train.learning_rate", train.learning_rate)? * share,
        warmup_iterations,
        warmup_ratio,
        drops,
        gamma: not_negative("train.gamma", train.gamma)?,
        cosine: cosine(train, per_epoch)?,
    })
}

fn cosine(train: &TrainSection, per_epoch: usize) -> Result<Option<CosineConfig>, RecipeError> {
    let Some(section) = train.cosine else { return Ok(None) };
    if train.drops.is_some() {
        return Err(fault("train.cosine", "given", "but train.drops is given as well: the rate follows one of them"));
    }
    let final_ratio = not_negative("train.cosine.final_ratio", section.final_ratio)?;
    Ok(Some(CosineConfig { num_iterations: train.length.iterations(per_epoch), final_ratio }))
}

fn positive(key: &'static str, value: usize) -> Result<usize, RecipeError> {
    if value > 0 { Ok(value) } else { Err(fault(key, value, "it must be at least 1")) }
}

fn above_zero(key: &'static str, value: f64) -> Result<f64, RecipeError> {
    if value.is_finite() && value > 0.0 { Ok(value) } else { Err(fault(key, value, "it must be above 0")) }
}

fn not_negative(key: &'static str, value: f64) -> Result<f64, RecipeError> {
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err(fault(key, value, "it must be 0 or more")) }
}

fn fault(key: &'static str, found: impl ToString, expected: &'static str) -> RecipeError {
    RecipeError::Value { key, found: found.to_string(), expected }
}
