//! From a recipe and a data set to something that runs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use burn::tensor::Device;
use cbn_detection::data::{DataPaths, Dataset, Split, TestLoader, TrainLoader};
use cbn_detection::eval::{EvalConfig, Evaluator, IouType};
use cbn_detection::model::Detector;
use cbn_detection::model::weights::{LoadConfig, StateDict, load_backbone};
use cbn_detection::recipe::{DataFacts, Plan, Recipe, resolve, train_loader, transform};
use cbn_detection::train::{Trainer, WorkDir, initial_detector};

use crate::foreign;

/// A training run that is ready to begin.
pub struct Session {
    pub plan: Plan,
    pub trainer: Trainer,
}

impl Session {
    /// Reads both splits, resolves the recipe, opens what the run writes to.
    pub fn open(recipe: &Recipe, data: &DataPaths, work_dir: WorkDir, device: Device) -> Result<Self> {
        let train = Arc::new(load_split(data, Split::Train)?);
        let val = Arc::new(load_split(data, Split::Val)?);
        anyhow::ensure!(
            train.categories == val.categories,
            "training and validation annotations have different categories, so labels would mean different things"
        );
        let loader = TrainLoader::new(train.clone(), transform(recipe), train_loader(recipe))?;
        let facts = DataFacts { num_classes: train.categories.len(), iterations_per_epoch: loader.batches_per_epoch() };
        let plan = resolve(recipe, facts)?;
        let evaluator = evaluator(&plan, val, iou_types(&plan))?;
        let trainer = Trainer {
            config: plan.train.clone(),
            loader,
            evaluator,
            work_dir,
            categories: train.categories.clone(),
            plan: serde_json::to_value(&plan).context("the plan has no JSON form")?,
            device,
        };
        Ok(Self { plan, trainer })
    }

    /// The detector that training starts from.
    ///
    /// A resumed run takes all weights from its checkpoint, so the recipe's weights file may be gone by then.
    pub fn initial_detector(&self) -> Result<Detector> {
        let mut detector = initial_detector(&self.plan.model, self.plan.train.seed, &self.trainer.device);
        if self.trainer.work_dir.resume_from().is_some() {
            return Ok(detector);
        }
        if let Some(path) = &self.plan.backbone_weights {
            let load = |backbone| load_backbone(backbone, &StateDict::read(path)?);
            detector.backbone = load(detector.backbone).context("train.backbone_weights")?;
        }
        if let Some(path) = &self.plan.init {
            let config = LoadConfig { replace_class_heads: self.plan.replace_class_heads, ..LoadConfig::default() };
            let load = |detector| config.load_detector(detector, &StateDict::read(path)?);
            let loaded = load(detector).context("train.init")?;
            foreign::check_pixels(&config, &loaded, &self.plan.transform)?;
            foreign::report(&loaded);
            detector = loaded.module;
        }
        Ok(detector)
    }
}

/// Scores a detector of this plan on a data set.
pub fn evaluator(plan: &Plan, dataset: Arc<Dataset>, iou_types: Vec<IouType>) -> Result<Evaluator> {
    let loader = TestLoader::new(dataset, plan.transform.clone(), plan.test_loader.clone())?;
    Ok(Evaluator::new(loader, iou_types, EvalConfig { max_detections: plan.max_detections })?)
}

/// All that a detector of this plan can be scored on.
pub fn iou_types(plan: &Plan) -> Vec<IouType> {
    match plan.model.mask_head {
        Some(_) => vec![IouType::Bbox, IouType::Segm],
        None => vec![IouType::Bbox],
    }
}

/// Reads the annotations of a split.
pub fn load_split(data: &DataPaths, split: Split) -> Result<Dataset> {
    let paths = data.split(split)?;
    Ok(Dataset::load(&paths.annotations, &paths.images)?)
}

/// A recipe's name: its file's, without the ending.
pub fn recipe_name(path: &Path) -> String {
    path.file_stem().map_or_else(|| "run".to_owned(), |stem| stem.to_string_lossy().into_owned())
}
