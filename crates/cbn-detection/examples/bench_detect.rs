//! Our side of `cargo xtask bench-peers detect` and `start`: the path of an image.
//!
//! usage: `bench_detect WEIGHTS`, a torchvision `maskrcnn_resnet50_fpn`
//!
//! Timed: from the decoded image to boxes, scores, classes and run-length encoded masks in its own pixels.

#[path = "../../../tools/bench/server.rs"]
mod server;

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Device;
use cbn_detection::data::{TestBatch, TransformConfig, read_rgb};
use cbn_detection::eval::collect;
use cbn_detection::model::weights::{StateDict, load_detector};
use cbn_detection::model::{Detector, DetectorConfig, MaskBranchConfig};

/// torchvision's 91 without the background.
const NUM_CLASSES: usize = 90;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [weights] = server::arguments();
    let device = Device::flex();
    let config = DetectorConfig::new(NUM_CLASSES).with_mask_head(MaskBranchConfig::default());
    let detector = load_detector(Detector::init_to_load(&config, &device), &StateDict::read(Path::new(&weights))?)?;
    let transform = TransformConfig::default();
    let category_ids: Vec<u64> = (1..=NUM_CLASSES as u64).collect();

    let mut pictures = HashMap::new();
    server::serve(move |path| {
        let picture = pictures
            .entry(path.to_owned())
            .or_insert_with(|| read_rgb(Path::new(path)).expect("the prepared list names readable images"));
        let (elapsed, found) = server::timed(|| {
            let batch = TestBatch::from_image(picture, path.to_owned(), &transform);
            let found = detector.detect(&batch.images.to_device(&device));
            collect(&found[0], &batch.metas[0], &category_ids)
        });
        (elapsed, found.len().to_string())
    })?;
    Ok(())
}
