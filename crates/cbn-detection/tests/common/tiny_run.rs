//! A training of a few iterations on a few synthetic images.

#![allow(dead_code, reason = "every test binary includes this file, not every one uses all of it")]

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;
use cbn::process_group::Peers;
use cbn_detection::data::synthetic::{SyntheticConfig, generate};
use cbn_detection::data::{DataPaths, Dataset, LoaderConfig, Shard, Split, TestLoader, TrainLoader};
use cbn_detection::eval::{EvalConfig, Evaluator, IouType};
use cbn_detection::model::Detector;
use cbn_detection::recipe::{DataFacts, Plan, Recipe, resolve, train_loader};
use cbn_detection::structures::ImageSize;
use cbn_detection::train::{NamedTensors, StopRequest, TrainError, Trainer, WorkDir, collect, initial_detector};

/// A Mask R-CNN as small as it gets, with CBN whose burn-in ends within the first of its two epochs, so that histories
/// are full when the run is interrupted.
pub const RECIPE: &str = r#"
description = "a test"

[model.backbone]
depth = "r18"

[model.neck]
channels = 16

[model.rpn]
anchors = { sizes = [[12], [24], [48], [96], [192]] }
train_proposals = { pre_nms_top_n = 50, post_nms_top_n = 50 }
test_proposals = { pre_nms_top_n = 20, post_nms_top_n = 10 }

[model.box_head]
head = "four_conv_one_fc"
fc_dim = 16
batch_size_per_image = 16

[model.mask_head]
num_convs = 1
channels = 16

[norm]
backbone = "bn"
neck = { kind = "cbn", window = 3, burn_in = { iterations = 1 } }
box_head = { kind = "cbn", window = 3, burn_in = { iterations = 1 } }
mask_head = { kind = "gn", groups = 4 }

[data.transform]
min_side_px = [48, 64]
max_side_px = 64

[train]
length = { epochs = 2 }
batch_size = 2
learning_rate = 0.01
warmup = { length = { iterations = 2 }, ratio = 0.1 }
clip_norm = 5.0
seed = 3
evaluate_every = { epochs = 2 }
"#;

pub struct Data {
    pub dir: tempfile::TempDir,
}

impl Data {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = SyntheticConfig {
            num_train: 6,
            num_val: 2,
            image_size: ImageSize::new(64, 64),
            max_objects: 2,
            ..SyntheticConfig::default()
        };
        generate(dir.path(), &config).unwrap();
        Self { dir }
    }

    pub fn load(&self, split: Split) -> Arc<Dataset> {
        let paths = DataPaths::from_dir(self.dir.path()).split(split).unwrap();
        Arc::new(Dataset::load(&paths.annotations, &paths.images).unwrap())
    }

    pub fn trainer(&self, assignments: &[&str], work_dir: WorkDir) -> (Plan, Trainer) {
        self.trainer_among(assignments, work_dir, &Peers::default())
    }

    pub fn trainer_among(&self, assignments: &[&str], work_dir: WorkDir, peers: &Peers) -> (Plan, Trainer) {
        let shard = Shard { rank: peers.rank(), count: peers.size() };
        let assignments: Vec<String> = assignments.iter().map(ToString::to_string).collect();
        let recipe = Recipe::parse(RECIPE, Path::new("test.toml"), &assignments).unwrap();
        let (train, val) = (self.load(Split::Train), self.load(Split::Val));
        let loader = TrainLoader::new(
            train.clone(),
            recipe.data.transform.clone(),
            LoaderConfig { shard, ..train_loader(&recipe) },
        )
        .unwrap();
        let facts = DataFacts::new(&recipe, 3, loader.batches_per_epoch());
        let plan = resolve(&recipe, facts).unwrap();
        let test_loader =
            TestLoader::new(val, plan.transform.clone(), LoaderConfig { shard, ..plan.test_loader.clone() }).unwrap();
        let kinds = vec![IouType::Bbox, IouType::Segm];
        let trainer = Trainer {
            config: plan.train.clone(),
            loader,
            evaluator: Evaluator::new(test_loader, kinds, EvalConfig::default()).unwrap().among(peers),
            work_dir,
            categories: train.categories.clone(),
            plan: serde_json::to_value(&plan).unwrap(),
            device: Device::flex(),
            stop: StopRequest::default(),
            max_iterations: None,
            peers: peers.clone(),
        };
        (plan, trainer)
    }
}

/// The device's random numbers are one stream for all threads, so that tests which start at once would mix each other's weights.
static STARTING: Mutex<()> = Mutex::new(());

pub fn start(plan: &Plan) -> Detector {
    start_among(plan, &Peers::default())
}

pub fn start_among(plan: &Plan, peers: &Peers) -> Detector {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    initial_detector(&plan.model.clone().among(peers), plan.train.seed, &Device::flex())
}

pub fn train(plan: &Plan, trainer: &Trainer) -> Result<NamedTensors, TrainError> {
    let detector = start(plan);
    let mut log = trainer.work_dir.log()?;
    trainer.train(detector, &mut log).map(|outcome| collect(&outcome.detector))
}

pub fn log_lines(work_dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(work_dir.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The losses of each iteration, by iteration.
pub fn losses(work_dir: &Path) -> Vec<(u64, serde_json::Value)> {
    let lines = log_lines(work_dir).into_iter().filter(|line| line["event"] == "iteration");
    lines.map(|line| (line["iteration"].as_u64().unwrap(), line["losses"].clone())).collect()
}
