//! Training runs on a few synthetic images: resuming, diverging, logging.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use cbn_detection::data::synthetic::{SyntheticConfig, generate};
use cbn_detection::data::{DataPaths, Dataset, Split, TestLoader, TrainLoader};
use cbn_detection::eval::{EvalConfig, Evaluator, GroundTruth, IouType, evaluate, read_results};
use cbn_detection::recipe::{DataFacts, Plan, Recipe, resolve, train_loader};
use cbn_detection::structures::ImageSize;
use cbn_detection::train::{NamedTensors, RunInfo, TrainError, Trainer, WorkDir, collect, initial_detector};

/// A Mask R-CNN as small as it gets, with CBN whose burn-in ends within the first of its two epochs, so that histories
/// are full when the run is interrupted.
const RECIPE: &str = r#"
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

struct Data {
    dir: tempfile::TempDir,
}

impl Data {
    fn new() -> Self {
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

    fn load(&self, split: Split) -> Arc<Dataset> {
        let paths = DataPaths::from_dir(self.dir.path()).split(split).unwrap();
        Arc::new(Dataset::load(&paths.annotations, &paths.images).unwrap())
    }

    fn trainer(&self, assignments: &[&str], work_dir: WorkDir) -> (Plan, Trainer) {
        let assignments: Vec<String> = assignments.iter().map(ToString::to_string).collect();
        let recipe = Recipe::parse(RECIPE, Path::new("test.toml"), &assignments).unwrap();
        let (train, val) = (self.load(Split::Train), self.load(Split::Val));
        let loader = TrainLoader::new(train.clone(), recipe.data.transform.clone(), train_loader(&recipe)).unwrap();
        let facts = DataFacts { num_classes: 3, iterations_per_epoch: loader.batches_per_epoch() };
        let plan = resolve(&recipe, facts).unwrap();
        let test_loader = TestLoader::new(val, plan.transform.clone(), plan.test_loader.clone()).unwrap();
        let kinds = vec![IouType::Bbox, IouType::Segm];
        let trainer = Trainer {
            config: plan.train.clone(),
            loader,
            evaluator: Evaluator::new(test_loader, kinds, EvalConfig::default()).unwrap(),
            work_dir,
            categories: train.categories.clone(),
            plan: serde_json::to_value(&plan).unwrap(),
            device: Device::flex(),
        };
        (plan, trainer)
    }
}

fn train(plan: &Plan, trainer: &Trainer) -> Result<NamedTensors, TrainError> {
    let detector = initial_detector(&plan.model, plan.train.seed, &Device::flex());
    trainer.train(detector, &mut |_| {}).map(|detector| collect(&detector))
}

fn log_lines(work_dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(work_dir.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The losses of each iteration, by iteration.
fn losses(work_dir: &Path) -> Vec<(u64, serde_json::Value)> {
    let lines = log_lines(work_dir).into_iter().filter(|line| line["event"] == "iteration");
    lines.map(|line| (line["iteration"].as_u64().unwrap(), line["losses"].clone())).collect()
}

#[test]
fn a_resumed_run_equals_the_uninterrupted_one_bit_for_bit() {
    let data = Data::new();
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (plan, trainer) = data.trainer(&[], WorkDir::create(whole.path()).unwrap());
    assert_eq!((plan.train.num_iterations, plan.train.iterations_per_epoch), (6, 3));
    let expected = train(&plan, &trainer).unwrap();

    // What a run that was stopped after epoch 1 leaves behind.
    let name = "checkpoint_00000003.safetensors";
    std::fs::copy(whole.path().join(name), parts.path().join(name)).unwrap();
    let (plan, trainer) = data.trainer(&[], WorkDir::resume(parts.path()).unwrap());
    let resumed = train(&plan, &trainer).unwrap();

    let differing: Vec<&String> = expected.keys().filter(|name| expected[*name] != resumed[*name]).collect();
    assert!(differing.is_empty(), "{} tensors differ, first {:?}", differing.len(), &differing[..1]);
    assert_eq!(losses(parts.path()), losses(whole.path())[3..]);
    let last = "checkpoint_00000006.safetensors";
    assert_eq!(std::fs::read(whole.path().join(last)).unwrap(), std::fs::read(parts.path().join(last)).unwrap());
}

#[test]
fn a_run_that_diverges_names_iteration_and_loss() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    // The first step throws the weights so far away that products of them overflow.
    let assignments = ["train.learning_rate=1e30", "train.clip_norm=1e30"];
    let (plan, trainer) = data.trainer(&assignments, WorkDir::create(dir.path()).unwrap());
    let message = train(&plan, &trainer).unwrap_err().to_string();
    assert!(message.starts_with("iteration 2: ") && message.contains("training has diverged"), "{message}");
}

#[test]
fn the_log_has_every_iteration_and_the_evaluation() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    let (plan, trainer) = data.trainer(&["train.length={ iterations = 2 }"], WorkDir::create(dir.path()).unwrap());
    train(&plan, &trainer).unwrap();
    let lines = log_lines(dir.path());
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["start", "iteration", "iteration", "checkpoint", "evaluation"]);
    let first = &lines[1];
    assert_eq!((first["iteration"].as_u64(), first["epoch"].as_u64()), (Some(1), Some(0)));
    assert!((first["learning_rate"].as_f64().unwrap() - 0.001).abs() < 1e-15);
    assert!(first["losses"]["rpn_objectness"].as_f64().unwrap() > 0.0);
    assert!(first["elapsed_s"].as_f64().unwrap() >= first["data_s"].as_f64().unwrap());
    assert!(lines[4]["metrics"]["segm"].get("AP50").is_some());
}

#[test]
fn the_work_directory_tells_what_was_run_and_what_it_found() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    let set = ["train.length={ iterations = 2 }"];
    let (plan, trainer) = data.trainer(&set, WorkDir::create(dir.path()).unwrap());
    train(&plan, &trainer).unwrap();
    let text = std::fs::read_to_string(trainer.work_dir.run_info_path()).unwrap();
    let info: RunInfo = serde_json::from_str(&text).unwrap();
    assert_eq!(info.plan, serde_json::to_value(&plan).unwrap());
    assert_eq!((info.num_train_images, info.num_val_images, info.categories.len()), (6, 2, 3));
    assert!(info.val_annotations.is_absolute() && info.val_annotations.is_file() && info.val_images.is_dir());
    assert!(info.machine.num_threads > 0);
    // The detections are those that the log's last numbers were computed from.
    let found = read_results(&trainer.work_dir.detections_path()).unwrap();
    let truth = GroundTruth::load(&info.val_annotations).unwrap();
    let summary = evaluate(&truth, &found, IouType::Bbox, &EvalConfig::default()).unwrap();
    let logged = log_lines(dir.path()).pop().unwrap();
    assert_eq!(logged["metrics"]["bbox"]["AR100"].as_f64(), summary.ar[2]);
    assert!(!dir.path().join("detections.unfinished").exists() && !dir.path().join("run.unfinished").exists());
}

#[test]
fn a_run_is_resumed_only_under_the_plan_it_was_begun_with() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    let short = "train.length={ iterations = 1 }";
    let (plan, trainer) = data.trainer(&[short], WorkDir::create(dir.path()).unwrap());
    train(&plan, &trainer).unwrap();
    let (plan, trainer) = data.trainer(&[short, "train.momentum=0.5"], WorkDir::resume(dir.path()).unwrap());
    let message = train(&plan, &trainer).unwrap_err().to_string();
    assert!(
        message.ends_with("was written under another plan: train.optimizer.momentum is 0.9 there and 0.5 now"),
        "{message}"
    );
}
