//! From a recipe and a data set to something that runs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use burn::tensor::Device;
use cbn::process_group::Peers;
use cbn_detection::data::{DataPaths, Dataset, LoaderConfig, Shard, Split, TestLoader, TrainLoader};
use cbn_detection::eval::{EvalConfig, Evaluator, IouType};
use cbn_detection::model::Detector;
use cbn_detection::model::weights::{LoadConfig, StateDict};
use cbn_detection::recipe::{DataFacts, Plan, Recipe, resolve, train_loader, transform};
use cbn_detection::train::{
    Event, LogError, Observer, Record, StopRequest, TensorBoard, Trainer, WorkDir, initial_detector,
};

use crate::foreign;
use crate::output::progress::Progress;
use crate::output::scores::Metrics;

/// What bounds a run without being part of its recipe.
#[derive(Clone, Default)]
pub struct Limits {
    /// Iterations after which it stops.
    pub max_iterations: Option<usize>,
    /// Images that may be unreadable.
    pub max_bad_images: usize,
    /// The processes that share the work.
    pub peers: Peers,
}

/// A training run that is ready to begin.
pub struct Session {
    pub plan: Plan,
    pub trainer: Trainer,
}

impl Session {
    /// Reads both splits, resolves the recipe, opens what the run writes to.
    pub fn open(recipe: &Recipe, data: &DataPaths, work_dir: WorkDir, device: Device, limits: Limits) -> Result<Self> {
        let train = Arc::new(load_split(data, Split::Train)?);
        let mut val = load_split(data, Split::Val)?;
        anyhow::ensure!(
            train.categories == val.categories,
            "training and validation annotations have different categories, so labels would mean different things"
        );
        let peers = limits.peers;
        let of_rank = LoaderConfig { shard: shard(&peers), ..train_loader(recipe) };
        let loader =
            TrainLoader::new(train.clone(), transform(recipe), of_rank)?.with_bad_image_limit(limits.max_bad_images);
        let facts = DataFacts::new(recipe, train.categories.len(), loader.batches_per_epoch());
        let plan = resolve(recipe, facts)?;
        val.images.truncate(plan.train.evaluate_images.unwrap_or(usize::MAX));
        let evaluator = evaluator(&plan, Arc::new(val), iou_types(&plan), &peers)?;
        let trainer = Trainer {
            config: plan.train.clone(),
            loader,
            evaluator,
            work_dir,
            categories: train.categories.clone(),
            plan: serde_json::to_value(&plan).context("the plan has no JSON form")?,
            device,
            stop: StopRequest::default(),
            max_iterations: limits.max_iterations,
            peers,
        };
        Ok(Self { plan, trainer })
    }

    /// Trains with everything that is told on the way: the log, TensorBoard's curves, the progress on stderr.
    pub fn train(&self, detector: Detector) -> Result<Trained> {
        let work_dir = &self.trainer.work_dir;
        if !self.trainer.peers.is_first() {
            let mut warnings = Warnings { rank: self.trainer.peers.rank() };
            let outcome = self.trainer.train(detector, &mut warnings)?;
            return Ok(Trained { iteration: outcome.iteration, evaluations: Vec::new() });
        }
        let mut progress = Progress::new(self.plan.train.num_iterations);
        let mut log = work_dir.log()?;
        let mut curves = TensorBoard::create(&work_dir.tensorboard_path())?;
        let mut observers = [&mut log as &mut dyn Observer, &mut curves, &mut progress];
        let outcome = self.trainer.train(detector, &mut observers.as_mut_slice())?;
        Ok(Trained { iteration: outcome.iteration, evaluations: progress.finish() })
    }

    /// The detector that training starts from.
    ///
    /// A resumed run takes all weights from its checkpoint, so the recipe's weights file may be gone by then.
    pub fn initial_detector(&self) -> Result<Detector> {
        let mut detector = initial_detector(
            &self.plan.model.clone().among(&self.trainer.peers),
            self.plan.train.seed,
            &self.trainer.device,
        );
        if self.trainer.work_dir.resumes() {
            return Ok(detector);
        }
        if let Some(path) = &self.plan.backbone_weights {
            let config = LoadConfig::default();
            let load = |backbone| config.load_backbone(backbone, &StateDict::read(path)?);
            let loaded = load(detector.backbone).context("train.backbone_weights")?;
            foreign::check_pixels(&config, &loaded, &self.plan.transform).context("train.backbone_weights")?;
            detector.backbone = loaded.module;
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

/// What a process other than the first tells: only what that one cannot know.
struct Warnings {
    rank: usize,
}

impl Observer for Warnings {
    fn observe(&mut self, event: &Event<'_>) -> Result<(), LogError> {
        if let Event::Logged(Record::BadImage { reason, .. }) = event {
            eprintln!("rank {}: {reason}", self.rank);
        }
        Ok(())
    }
}

/// The part of the images that a process takes.
pub fn shard(peers: &Peers) -> Shard {
    Shard { rank: peers.rank(), count: peers.size() }
}

/// How a training ended.
pub struct Trained {
    /// Finished iterations.
    pub iteration: usize,
    /// What the evaluations of this process found, each after so many iterations.
    pub evaluations: Vec<(usize, Metrics)>,
}

/// Scores a detector of this plan on a data set.
pub fn evaluator(plan: &Plan, dataset: Arc<Dataset>, iou_types: Vec<IouType>, peers: &Peers) -> Result<Evaluator> {
    let config = LoaderConfig { shard: shard(peers), ..plan.test_loader.clone() };
    let loader = TestLoader::new(dataset, plan.transform.clone(), config)?;
    let config = EvalConfig { max_detections: plan.max_detections };
    Ok(Evaluator::new(loader, iou_types, config)?.with_flip(plan.test_flip).among(peers))
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
