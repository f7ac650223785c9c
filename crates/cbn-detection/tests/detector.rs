//! What a detector does whatever its weights are: gradients, batches, images without objects.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use std::sync::Mutex;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use cbn::{BatchNormConfig, FeatureMap, GroupNormConfig, NormConfig};
use cbn_detection::model::{BoxHeadKind, Detector, DetectorConfig, MaskBranchConfig, ProposalConfig, ResNetDepth};
use cbn_detection::structures::{BBox, ImageBatch, ImageSize, InstanceMask, Losses, Targets};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const NUM_CLASSES: usize = 3;
const PADDED: ImageSize = ImageSize::new(64, 96);

fn config() -> DetectorConfig {
    let group = NormConfig::Group(GroupNormConfig::new(4));
    let mut config = DetectorConfig::new(NUM_CLASSES);
    config.backbone.depth = ResNetDepth::R18;
    config.backbone.norm = NormConfig::Batch(BatchNormConfig::default());
    config.backbone.frozen_stages = 1;
    (config.neck.channels, config.neck.norm) = (16, group.clone());
    config.rpn.anchors.sizes = [8.0, 16.0, 32.0, 64.0, 128.0].iter().map(|&size| vec![size]).collect();
    let proposals = ProposalConfig { pre_nms_top_n: 60, post_nms_top_n: 40 };
    (config.rpn.train_proposals, config.rpn.test_proposals) = (proposals, proposals);
    (config.box_head.head, config.box_head.fc_dim, config.box_head.norm) =
        (BoxHeadKind::FourConvOneFc, 32, group.clone());
    // At random weights every class scores about a quarter.
    config.box_head.score_threshold = 0.1;
    config.with_mask_head(MaskBranchConfig { num_convs: 2, channels: 16, norm: group, ..MaskBranchConfig::default() })
}

/// The tests run side by side and the device has one stream of random numbers.
static RANDOM_STREAM: Mutex<()> = Mutex::new(());

fn detector(device: &Device) -> Detector {
    let _guard = RANDOM_STREAM.lock();
    device.seed(11);
    Detector::init(&config(), device)
}

fn images(num: usize, device: &Device) -> ImageBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let pixels: Vec<f32> = (0..num * PADDED.num_pixels() * 3).map(|_| rng.random_range(-1.0..1.0)).collect();
    let pixels = TensorData::new(pixels, [num, PADDED.height, PADDED.width, 3]);
    let sizes = (0..num).map(|image| ImageSize::new(PADDED.height - 3 * image, PADDED.width - 10 * image)).collect();
    ImageBatch { pixels: FeatureMap::from_nhwc(Tensor::from_data(pixels, device)), sizes, scales: vec![[1.0; 2]; num] }
}

fn image(batch: &ImageBatch, index: usize) -> ImageBatch {
    let pixels = batch.pixels.nhwc().clone().slice([index..index + 1]);
    ImageBatch { pixels: FeatureMap::from_nhwc(pixels), sizes: vec![batch.sizes[index]], scales: vec![[1.0; 2]] }
}

fn objects() -> Targets {
    let boxes = vec![BBox::new(4.0, 6.0, 30.0, 40.0), BBox::new(40.0, 10.0, 80.0, 50.0)];
    let masks = boxes.iter().map(|bbox| {
        let window = ImageSize::new(bbox.height() as usize, bbox.width() as usize);
        let origin = (bbox.x1 as usize, bbox.y1 as usize);
        InstanceMask::from_window(PADDED, origin, window, &vec![1; window.num_pixels()])
    });
    Targets { masks: Some(masks.collect()), boxes, labels: vec![0, 2] }
}

fn train(detector: &Detector, targets: &[Targets]) -> Losses {
    let images = images(targets.len(), &Device::flex().autodiff());
    detector.forward_train(&images, targets, &mut ChaCha8Rng::seed_from_u64(1))
}

fn value(loss: &Tensor<1>) -> f32 {
    loss.clone().into_scalar()
}

/// Parameters by path, with the largest absolute value of their gradient if they have one.
struct GradientSizes<'a> {
    gradients: &'a Gradients,
    path: Vec<String>,
    found: Vec<(String, Option<f32>)>,
}

impl ModuleVisitor for GradientSizes<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let size = param.val().grad(self.gradients).map(|gradient| gradient.abs().max().into_scalar());
        self.found.push((self.path.join("."), size));
    }
}

fn gradient_sizes(detector: &Detector, gradients: &Gradients) -> Vec<(String, Option<f32>)> {
    let mut visitor = GradientSizes { gradients, path: Vec::new(), found: Vec::new() };
    detector.visit(&mut visitor);
    visitor.found
}

#[test]
fn every_trainable_parameter_has_a_gradient_and_no_frozen_one() {
    let detector = detector(&Device::flex().autodiff());
    let losses = train(&detector, &[objects(), objects()]);
    for (path, size) in gradient_sizes(&detector, &losses.total().backward()) {
        let is_frozen = path.starts_with("backbone.stem") || path.starts_with("backbone.stages.0");
        if is_frozen || path.contains("running_") {
            assert_eq!(size, None, "{path}");
        } else {
            assert!(size.is_some_and(|size| size.is_finite() && size > 0.0), "{path}: {size:?}");
        }
    }
}

#[test]
fn images_without_objects_train_background_only() {
    let detector = detector(&Device::flex().autodiff());
    let losses = train(&detector, &[Targets { masks: Some(vec![]), ..Targets::default() }, Targets::default()]);
    for (name, loss) in losses.named() {
        let is_background = name == "rpn_objectness" || name == "roi_class";
        assert!(value(&loss).is_finite() && (value(&loss) > 0.0) == is_background, "{name}: {}", value(&loss));
    }
    let gradients = losses.total().backward();
    let of_deltas = detector.roi.boxes.head.deltas.weight.val().grad(&gradients).unwrap();
    assert_eq!(of_deltas.abs().max().into_scalar::<f32>(), 0.0);
}

#[test]
fn an_image_without_objects_shares_a_batch_with_one_that_has_some() {
    let detector = detector(&Device::flex().autodiff());
    let losses = train(&detector, &[Targets::default(), objects()]);
    assert!(losses.named().iter().all(|(_, loss)| value(loss).is_finite() && value(loss) > 0.0));
}

#[test]
fn untrained_losses_are_those_of_guessing() {
    let detector = detector(&Device::flex().autodiff());
    let losses = train(&detector, &[objects(), objects()]);
    // Predictors start near zero: object or not is ln 2; classes ln 4. Weights of standard deviation 0.01 over 16 and 32
    // channels of order 1 move logits by a few hundredths.
    assert!((value(&losses.rpn_objectness) - 2f32.ln()).abs() < 0.05, "{}", value(&losses.rpn_objectness));
    assert!((value(&losses.roi_class) - 4f32.ln()).abs() < 0.1, "{}", value(&losses.roi_class));
    assert!(value(&losses.total()) < 10.0);
}

#[test]
fn a_batch_detects_what_its_images_detect_alone() {
    let detector = detector(&Device::flex());
    let batch = images(2, &Device::flex());
    let together = detector.detect(&batch);
    for (index, found) in together.iter().enumerate() {
        let alone = &detector.detect(&image(&batch, index))[0];
        assert!(!found.is_empty());
        assert_eq!(found.labels, alone.labels);
        // One kernel may split sums by the size of the batch; scores are of order 0.3, coordinates of order 50.
        assert!(found.scores.iter().zip(&alone.scores).all(|(a, b)| (a - b).abs() < 1e-5));
        for (a, b) in found.boxes.iter().zip(&alone.boxes) {
            assert!(a.to_array().iter().zip(b.to_array()).all(|(a, b)| (a - b).abs() < 1e-2), "{a:?} {b:?}");
        }
        let masks = found.masks.as_ref().unwrap().iter().zip(alone.masks.as_ref().unwrap());
        for (a, b) in masks {
            assert!(a.probabilities.iter().zip(&b.probabilities).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }
}

#[test]
fn detections_lie_in_their_image_best_first() {
    let batch = images(2, &Device::flex());
    for (found, size) in detector(&Device::flex()).detect(&batch).iter().zip(&batch.sizes) {
        assert!(found.scores.is_sorted_by(|a, b| a >= b));
        assert!(found.boxes.iter().all(|bbox| bbox.clip(*size) == *bbox && !bbox.is_empty()));
        assert!(found.labels.iter().all(|&label| label < NUM_CLASSES));
        assert_eq!(found.masks.as_ref().unwrap().len(), found.len());
    }
}

#[test]
fn the_seed_of_the_device_decides_the_weights() {
    let device = Device::flex();
    let weight = |detector: &Detector| detector.roi.boxes.head.deltas.weight.val().into_data();
    let first = detector(&device);
    // Running it draws nothing more: all weights were drawn at `init`.
    first.detect(&images(1, &device));
    assert_eq!(weight(&first), weight(&detector(&device)));
}
