//! Our side of `cargo xtask bench-peers train`: a step of two images.
//!
//! usage: `bench_train WEIGHTS ANNOTATIONS IMAGES`
//!
//! Timed: losses, gradients and the optimizer's step. Reading and resizing are not: the data table has them.

#[path = "../../../tools/bench/server.rs"]
mod server;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use cbn_detection::data::{Dataset, LoaderConfig, TrainLoader, TransformConfig};
use cbn_detection::model::weights::{StateDict, load_detector};
use cbn_detection::model::{Detector, DetectorConfig, MaskBranchConfig};
use cbn_detection::structures::TrainBatch;
use cbn_detection::train::{ScheduleConfig, Sgd, SgdConfig, TrainConfig, train_step};

/// torchvision's 91 without the background.
const NUM_CLASSES: usize = 90;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [weights, annotations, images_dir] = server::arguments();
    let device = Device::flex().autodiff();
    let config = DetectorConfig::new(NUM_CLASSES).with_mask_head(MaskBranchConfig::default());
    let detector = load_detector(Detector::init(&config, &device), &StateDict::read(Path::new(&weights))?)?;
    let TrainBatch { images, targets, .. } = read_batch(Path::new(&annotations), Path::new(&images_dir))?;
    let images = images.to_device(&device);

    let config = train_config();
    let mut sgd = Sgd::new(config.optimizer.clone());
    // A step takes the detector and gives it back.
    let mut detector = Some(detector);
    let mut iteration = 0;
    server::serve(move |_request| {
        let before = detector.take().expect("every step puts the detector back");
        let (elapsed, step) = server::timed(|| train_step(before, &mut sgd, &config, iteration, (&images, &targets)));
        let (after, report) = step.expect("a small learning rate keeps the losses finite");
        detector = Some(after);
        iteration += 1;
        (elapsed, format!("{:.2}", report.loss))
    })?;
    Ok(())
}

/// The two images that the annotations list, not mirrored.
fn read_batch(annotations: &Path, images_dir: &Path) -> Result<TrainBatch, Box<dyn std::error::Error>> {
    let dataset = Arc::new(Dataset::load(annotations, images_dir)?);
    let transform = TransformConfig { flip_probability: 0.0, ..TransformConfig::default() };
    let loader = TrainLoader::new(dataset, transform, LoaderConfig { num_workers: 0, ..LoaderConfig::default() })?;
    Ok(loader.epoch(0, 0).next().ok_or("the annotations list too few images")??)
}

/// A rate at which the weights stay what they are, all but.
fn train_config() -> TrainConfig {
    TrainConfig {
        num_iterations: usize::MAX,
        iterations_per_epoch: 1,
        schedule: ScheduleConfig {
            base_learning_rate: 1e-5,
            warmup_iterations: 0,
            warmup_ratio: 1.0,
            drops: Vec::new(),
            cosine: None,
            gamma: 1.0,
        },
        optimizer: SgdConfig { momentum: 0.9, weight_decay: 1e-4 },
        accumulate: 1,
        freeze: Vec::new(),
        ema: None,
        clip_norm: None,
        seed: 0,
        evaluate_every: usize::MAX,
        evaluate_images: None,
        checkpoint_every: usize::MAX,
        keep_checkpoints: 1,
    }
}
