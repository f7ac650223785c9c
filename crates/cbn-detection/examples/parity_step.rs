//! Our side of `tools/parity/training_step.py` and `mmdetection_step.py`: losses and gradients of one step on a given batch.
//!
//! usage: `parity_step RECIPE WEIGHTS BATCH OUT [KEY=VALUE ...]`; KEY=VALUE changes the recipe
//!
//! WEIGHTS is a detector of another library that counts the background first, BATCH (`.safetensors`) has `pixels [B, H, W, 3]`, `sizes [B, 2]` and, per image i, `boxes_i [N, 4]`,
//! `labels_i [N]`, `masks_i [N, H_i, W_i]` and the regions that the second stage samples, `proposals_i [P, 4]`.
//! OUT (`.safetensors`) gets `loss.NAME`, the gradients under the names that WEIGHTS has, and the RPN's own `proposals_i`.
//! Boxes are the areas that they cover, under every convention.

#[path = "../tests/common/gradients.rs"]
mod gradients;

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use cbn_detection::model::Detector;
use cbn_detection::model::weights::{LoadConfig, StateDict};
use cbn_detection::ops::Draw;
use cbn_detection::recipe::{DataFacts, Recipe, resolve};
use cbn_detection::structures::{BBox, ImageSize, InstanceMask, PaddedImages, Proposals, Targets};

use gradients::gradients_named;

/// Chooses the candidates whose numbers have the lowest hashes, as the scripts have the others do.
struct LowestHashes;

impl Draw for LowestHashes {
    fn draw(&mut self, count: usize, amount: usize) -> Vec<usize> {
        let mut candidates: Vec<usize> = (0..count).collect();
        candidates.sort_by_key(|&index| hash(index as u64));
        candidates.truncate(amount);
        candidates
    }
}

/// The finalizer of splitmix64.
fn hash(index: u64) -> u64 {
    let z = (index ^ (index >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

struct Batch(HashMap<String, TensorData>);

impl Batch {
    fn read(path: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let tensors = StateDict::read(Path::new(path))?;
        Ok(Self(tensors.iter().map(|(name, data)| (name.to_owned(), data.clone())).collect()))
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.0[name].iter::<f32>().collect()
    }

    fn boxes(&self, name: &str) -> Vec<BBox> {
        self.values(name).chunks_exact(4).map(|edges| BBox::new(edges[0], edges[1], edges[2], edges[3])).collect()
    }

    /// The ROI heads do not read their scores.
    fn proposals(&self, image: usize) -> Proposals {
        let boxes = self.boxes(&format!("proposals_{image}"));
        Proposals { scores: vec![1.0; boxes.len()], boxes }
    }

    fn images(&self) -> PaddedImages {
        let shape = self.0["pixels"].shape().to_vec();
        let sizes = self.values("sizes");
        PaddedImages {
            pixels: self.values("pixels"),
            padded: ImageSize::new(shape[1], shape[2]),
            scales: vec![[1.0; 2]; shape[0]],
            sizes: sizes.chunks_exact(2).map(|side| ImageSize::new(side[0] as usize, side[1] as usize)).collect(),
        }
    }

    fn targets(&self, image: usize, size: ImageSize) -> Targets {
        let masks: Vec<u8> = self.values(&format!("masks_{image}")).iter().map(|&bit| bit as u8).collect();
        Targets {
            boxes: self.boxes(&format!("boxes_{image}")),
            // The others count the background.
            labels: self.values(&format!("labels_{image}")).iter().map(|&label| label as usize - 1).collect(),
            masks: Some(
                masks.chunks_exact(size.num_pixels()).map(|mask| InstanceMask::from_full(size, mask)).collect(),
            ),
        }
    }
}

fn edges(boxes: &[BBox]) -> TensorData {
    let values: Vec<f32> = boxes.iter().flat_map(|&BBox { x1, y1, x2, y2 }| [x1, y1, x2, y2]).collect();
    TensorData::new(values, [boxes.len(), 4])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [recipe, weights, batch, out, settings @ ..] = arguments.as_slice() else {
        return Err("usage: parity_step RECIPE WEIGHTS BATCH OUT [KEY=VALUE ...]".into());
    };
    let device = Device::flex().autodiff();
    let weights = StateDict::read(Path::new(weights))?;
    let num_classes = LoadConfig::default().num_classes(&weights)?.ok_or("the weights are of no detector")?;
    let recipe = Recipe::load(Path::new(recipe), settings)?;
    let plan = resolve(&recipe, DataFacts { num_classes, iterations_per_epoch: 1 })?;
    let loaded = LoadConfig::default().load_detector(Detector::init(&plan.model, &device), &weights)?;
    let (detector, layout) = (loaded.module, loaded.layout);

    let batch = Batch::read(batch)?;
    let images = batch.images();
    let targets: Vec<Targets> =
        images.sizes.iter().enumerate().map(|(image, &size)| batch.targets(image, size)).collect();
    let mut draws: Vec<LowestHashes> = targets.iter().map(|_| LowestHashes).collect();
    let mut found: Vec<(String, TensorData)> = Vec::new();
    let exchange = |own: Vec<Proposals>| {
        found.extend(own.iter().enumerate().map(|(image, own)| (format!("proposals_{image}"), edges(&own.boxes))));
        (0..own.len()).map(|image| batch.proposals(image)).collect()
    };
    let losses = detector.forward_train_through(&images.to_device(&device), &targets, &mut draws, exchange);
    found.extend(losses.named().into_iter().map(|(name, loss)| (format!("loss.{name}"), loss.into_data())));
    let gradients = gradients_named(detector, &losses, layout);
    found.extend(gradients.iter().map(|(name, gradient)| (name.to_owned(), gradient.clone())));
    StateDict::new(found).write(Path::new(out), &[])?;
    Ok(())
}
