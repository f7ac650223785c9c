//! What a detector does whatever its weights are: gradients, batches, images without objects.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use std::sync::Mutex;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use cbn::ops::Roi;
use cbn::{BatchNormConfig, FeatureMap, GroupNormConfig, NormConfig};
use cbn_detection::model::roi::pool_rois;
use cbn_detection::model::{BoxHeadKind, Detector, DetectorConfig, MaskBranchConfig, ProposalConfig, ResNetDepth};
use cbn_detection::structures::{BBox, Detections, ImageBatch, ImageSize, InstanceMask, Losses, PaddedImages, Targets};
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
    detector_of(&config(), device)
}

fn detector_of(config: &DetectorConfig, device: &Device) -> Detector {
    let _guard = RANDOM_STREAM.lock();
    device.seed(11);
    Detector::init(config, device)
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

/// Noise within images of two sizes.
fn padded_images() -> PaddedImages {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let sizes = vec![PADDED, ImageSize::new(50, 77)];
    let mut pixels = vec![0.0; 2 * PADDED.num_pixels() * 3];
    for (canvas, size) in pixels.chunks_exact_mut(PADDED.num_pixels() * 3).zip(&sizes) {
        for row in canvas.chunks_exact_mut(PADDED.width * 3).take(size.height) {
            row[..size.width * 3].fill_with(|| rng.random_range(-1.0..1.0));
        }
    }
    PaddedImages { pixels, padded: PADDED, sizes, scales: vec![[1.0; 2]; 2] }
}

/// Boxes to 1e-4 pixels, as mirroring rounds them once more (96 has an ulp of 8e-6); scores to the bit; masks to the rounding of a mean.
fn assert_same_detections(found: &Detections, expected: &Detections) {
    assert_eq!((&found.labels, &found.scores), (&expected.labels, &expected.scores));
    for (found, expected) in found.boxes.iter().zip(&expected.boxes) {
        let edges = found.to_array().into_iter().zip(expected.to_array());
        edges.for_each(|(found, expected)| assert!((found - expected).abs() < 1e-4, "{found} {expected}"));
    }
    let cells = |found: &Detections| -> Vec<f32> {
        found.masks.iter().flatten().flat_map(|mask| mask.probabilities.clone()).collect()
    };
    let (found, expected) = (cells(found), cells(expected));
    assert_eq!(found.len(), expected.len());
    found.iter().zip(&expected).for_each(|(found, expected)| assert!((found - expected).abs() < 1e-4));
}

#[test]
fn two_looks_find_in_a_mirror_image_what_they_find_in_the_image() {
    let device = Device::flex();
    let detector = detector(&device);
    let images = padded_images();
    let (plain, mirrored) = (images.to_device(&device), images.flip_horizontal().to_device(&device));
    let found = detector.detect_with_mirror(&plain, &mirrored);
    let in_mirror = detector.detect_with_mirror(&mirrored, &plain);
    let (one_look, one_in_mirror) = (detector.detect(&plain), detector.detect(&mirrored));
    for (image, size) in images.sizes.iter().enumerate() {
        assert!(found[image].len() > 10, "nothing to compare");
        assert_same_detections(&in_mirror[image].flip_horizontal(size.width), &found[image]);
        // One look alone does not see the same in both, or this test would say nothing.
        assert_ne!(one_look[image].scores, one_in_mirror[image].scores);
    }
}

#[test]
fn the_candidates_of_two_looks_go_through_one_suppression() {
    let device = Device::flex();
    let mut all = config();
    // Nothing overlaps by more than everything: each look's candidates as they are.
    (all.box_head.nms_threshold, all.box_head.max_detections) = (1.0, 10_000);
    let all = detector_of(&all, &device);
    let images = padded_images();
    let (plain, mirrored) = (images.to_device(&device), images.flip_horizontal().to_device(&device));
    let found = detector(&device).detect_with_mirror(&plain, &mirrored);
    let looks = all.detect(&plain).into_iter().zip(all.detect(&mirrored)).zip(&images.sizes);
    for (found, ((first, second), size)) in found.iter().zip(looks) {
        let second = second.flip_horizontal(size.width);
        let mut candidates: Vec<(f32, usize, BBox)> = [&first, &second]
            .into_iter()
            .flat_map(|look| (0..look.len()).map(|at| (look.scores[at], look.labels[at], look.boxes[at])))
            .collect();
        candidates.sort_by(|first, second| second.0.total_cmp(&first.0));
        let mut kept: Vec<(f32, usize, BBox)> = Vec::new();
        for (score, label, bbox) in candidates {
            if !kept
                .iter()
                .any(|other| other.1 == label && f64::from(other.2.iou(&bbox)) > config().box_head.nms_threshold)
            {
                kept.push((score, label, bbox));
            }
        }
        kept.truncate(config().box_head.max_detections);
        let of_look = |look: &Detections| kept.iter().filter(|kept| look.scores.contains(&kept.0)).count();
        assert!(of_look(&first) > 3 && of_look(&second) > 3, "both looks have a part in it");
        let expected = Detections {
            boxes: kept.iter().map(|kept| kept.2).collect(),
            scores: kept.iter().map(|kept| kept.0).collect(),
            labels: kept.iter().map(|kept| kept.1).collect(),
            masks: None,
        };
        assert_same_detections(&Detections { masks: None, ..found.clone() }, &expected);
    }
}

#[test]
fn a_mask_of_two_looks_is_the_mean_of_both() {
    let device = Device::flex();
    let detector = detector(&device);
    let images = padded_images();
    let views = [images.to_device(&device), images.flip_horizontal().to_device(&device)];
    let found = &detector.detect_with_mirror(&views[0], &views[1])[1];
    let (head, pool) = (&detector.roi.mask.as_ref().unwrap().head, config().mask_head.unwrap().pool);
    // One box at a time through the layers: probabilities of its class, row by row.
    let look = |view: &ImageBatch, bbox: BBox, label: usize| -> Vec<f32> {
        let pyramid = detector.neck.forward(&detector.backbone.forward(&view.pixels));
        let roi = Roi { batch_index: 1, x1: bbox.x1, y1: bbox.y1, x2: bbox.x2, y2: bbox.y2 };
        let logits = head.forward(pool_rois(&pyramid, &[roi], &pool)).into_nhwc().into_data().try_to_vec::<f32>();
        let of_class = logits.unwrap().chunks_exact(NUM_CLASSES + 1).map(|cell| cell[label + 1]).collect::<Vec<f32>>();
        of_class.into_iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect()
    };
    for at in 0..3 {
        let (bbox, label, mask) = (found.boxes[at], found.labels[at], &found.masks.as_ref().unwrap()[at]);
        let plain = look(&views[0], bbox, label);
        let mut mirrored = look(&views[1], bbox.flip_horizontal(images.sizes[1].width), label);
        mirrored.chunks_exact_mut(mask.side).for_each(<[f32]>::reverse);
        for ((found, plain), mirrored) in mask.probabilities.iter().zip(plain).zip(mirrored) {
            // Convolutions sum in the order that the number of rois decides: some 1e-6 at values below 1.
            assert!((found - (plain + mirrored) / 2.0).abs() < 1e-5, "{found} {plain} {mirrored}");
        }
    }
}
