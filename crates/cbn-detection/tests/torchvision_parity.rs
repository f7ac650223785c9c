//! Every stage of a Mask R-CNN against torchvision 0.26, for the same weights and images.
//!
//! The numbers were made by `tools/fixtures/torchvision_parity.py`, which explains them.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

mod common;
#[path = "common/gradients.rs"]
mod gradients;

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use cbn::FeatureMap;
use cbn::ops::Roi;
use cbn_detection::model::roi::pool_rois;
use cbn_detection::model::weights::{StateDict, WeightLayout, load_detector};
use cbn_detection::model::{BoxBranchConfig, Detector, DetectorConfig, MaskBranchConfig, ProposalConfig, ResNetDepth};
use cbn_detection::structures::{BBox, ImageBatch, ImageSize, InstanceMask, Losses, MaskTarget, Pyramid, Targets};
use gradients::gradients_named;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;

const NUM_CLASSES: usize = 4;
const MAX_STORED: usize = 4096;
const PADDED: [usize; 2] = [128, 192];
const SIZES: [ImageSize; 2] = [ImageSize::new(128, 180), ImageSize::new(100, 192)];

/// Largest difference of a stage over its largest value, with both in f32: sums of up to 12544 products in another order,
/// through at most 25 layers. Found: at most 9e-6.
const TOLERANCE: f32 = 1e-4;

/// The same for gradients of early layers: an activation within rounding of zero passes the gradient here and not there, or
/// the reverse. One such activation of three million changes these gradients by up to 5e-3, in torchvision as well when
/// the image is changed by 2e-6; the other gradients stay where they are.
const TOLERANCE_BELOW_RELUS: f32 = 2e-2;
/// The same for gradients that only the ReLUs of RPN and heads are in front of: one of them, at one place, moves these by up to 3e-4. Where ReLUs are decided
/// they are within 3e-6.
const TOLERANCE_BELOW_HEADS: f32 = 2e-3;

/// The same for all gradients where hardly an activation lies near zero. Found: at most 7e-6, and torchvision itself is up to 3e-6 from its result in f64.
const TOLERANCE_OF_OPEN: f32 = 1e-4;
const MAX_STORED_OF_GRADIENT: usize = 128;

/// Uniform in [-1, 1): splitmix64 of the index, seeded with the FNV-1a hash of the name.
fn formula(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    (1..=count as u64).map(move |index| {
        let mut z = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

/// `parameter` of the script.
fn parameter(name: &str, shape: &[usize]) -> TensorData {
    const SCALES: [(&str, f64); 4] =
        [("inner_blocks", 0.03), ("rpn.head.cls_logits", 0.2), ("cls_score", 0.1), ("bbox_pred", 0.05)];
    const AROUND_ONE: [&str; 5] = ["running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight"];
    let (offset, scale) = if shape.len() > 1 {
        let fan_in: usize = shape[1..].iter().product();
        let scale = SCALES.iter().find(|(part, _)| name.contains(part)).map_or(1.0, |(_, scale)| *scale);
        (0.0, scale * (6.0 / fan_in as f64).sqrt())
    } else if AROUND_ONE.iter().any(|end| name.ends_with(end)) {
        (1.0, 0.3)
    } else {
        (0.0, 0.1)
    };
    let values: Vec<f32> = formula(name, shape.iter().product()).map(|unit| (offset + scale * unit) as f32).collect();
    TensorData::new(values, shape.to_vec())
}

/// What torchvision found.
struct Expected {
    bytes: Vec<u8>,
}

impl Expected {
    fn read() -> Self {
        Self::read_file("mask_rcnn_r18")
    }

    fn read_file(name: &str) -> Self {
        let path = common::fixture(&format!("torchvision_parity/{name}.safetensors"));
        Self { bytes: std::fs::read(path).unwrap() }
    }

    /// What follows this prefix in the names of the file's tensors.
    fn names(&self, prefix: &str) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.names().iter().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn boxes(&self, name: &str) -> Vec<BBox> {
        self.values(name).chunks_exact(4).map(|edges| BBox::new(edges[0], edges[1], edges[2], edges[3])).collect()
    }

    fn weights(&self) -> Vec<(String, TensorData)> {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        let shapes: BTreeMap<String, Vec<usize>> =
            serde_json::from_str(&metadata.metadata().as_ref().unwrap()["shapes"]).unwrap();
        let stored = self.names("state.");
        let tensor = |name: &str, shape: &[usize]| match stored.iter().any(|of| of == name) {
            true => TensorData::new(self.values(&format!("state.{name}")), shape.to_vec()),
            false => parameter(name, shape),
        };
        shapes.iter().map(|(name, shape)| (name.clone(), tensor(name, shape))).collect()
    }

    /// Compares a stage, of which the file may hold only every k-th value.
    fn assert_close(&self, name: &str, found: &[f32]) {
        self.assert_within(TOLERANCE, name, found);
    }

    fn assert_within(&self, tolerance: f32, name: &str, found: &[f32]) {
        let step = found.len().div_ceil(MAX_STORED).max(1);
        let found: Vec<f32> = found.iter().step_by(step).copied().collect();
        let expected = self.values(name);
        assert_eq!(found.len(), expected.len(), "{name}: number of values");
        let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let difference =
            found.iter().zip(&expected).fold(0.0_f32, |largest, (a, b)| largest.max((a - b).abs())) / largest;
        assert!(difference <= tolerance, "{name}: relative difference {difference:e}");
    }
}

fn config() -> DetectorConfig {
    let mut config = DetectorConfig::new(NUM_CLASSES).with_mask_head(MaskBranchConfig::default());
    config.backbone.depth = ResNetDepth::R18;
    let proposals = ProposalConfig { pre_nms_top_n: 200, post_nms_top_n: 60 };
    (config.rpn.train_proposals, config.rpn.test_proposals) = (proposals, proposals);
    // More than there are candidates: nothing is left to chance.
    (config.rpn.batch_size_per_image, config.rpn.positive_fraction) = (1_000_000, 1.0);
    config.box_head = BoxBranchConfig {
        batch_size_per_image: 1_000_000,
        positive_fraction: 1.0,
        max_detections: 50,
        ..config.box_head
    };
    config
}

fn images(device: &Device) -> ImageBatch {
    let [height, width] = PADDED;
    let pixels: Vec<f32> = formula("image", 2 * 3 * height * width).map(|unit| (2.0 * unit) as f32).collect();
    let pixels = Tensor::from_data(TensorData::new(pixels, [2, 3, height, width]), device);
    ImageBatch { pixels: FeatureMap::from_nchw(pixels), sizes: SIZES.to_vec(), scales: vec![[1.0; 2]; 2] }
}

fn nchw(map: &FeatureMap) -> Vec<f32> {
    host(map.to_nchw())
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

fn edges(boxes: &[BBox]) -> Vec<f32> {
    boxes.iter().flat_map(|bbox| bbox.to_array()).collect()
}

fn detector_and_pyramid(expected: &Expected) -> (Detector, Pyramid) {
    let device = Device::flex();
    let detector = load_detector(Detector::init(&config(), &device), &StateDict::new(expected.weights())).unwrap();
    let pyramid = detector.neck.forward(&detector.backbone.forward(&images(&device).pixels));
    (detector, pyramid)
}

#[test]
fn backbone_neck_and_rpn_agree() {
    let expected = Expected::read();
    let (detector, pyramid) = detector_and_pyramid(&expected);
    for (level, map) in detector.backbone.forward(&images(&Device::flex()).pixels).iter().enumerate() {
        expected.assert_close(&format!("c{}", level + 2), &nchw(map));
    }
    for (level, map) in pyramid.levels.iter().enumerate() {
        expected.assert_close(&format!("p{}", level + 2), &nchw(map));
    }
    let predictions = detector.rpn.head.forward(&pyramid);
    expected.assert_close("rpn_objectness", &host(predictions.objectness()));
    expected.assert_close("rpn_deltas", &host(predictions.deltas()));
    for (image, proposals) in detector.rpn.detect(&pyramid, &SIZES).iter().enumerate() {
        expected.assert_close(&format!("proposal_boxes_{image}"), &edges(&proposals.boxes));
        expected.assert_close(&format!("proposal_scores_{image}"), &proposals.scores);
    }
}

#[test]
fn roi_heads_agree() {
    let expected = Expected::read();
    let (detector, pyramid) = detector_and_pyramid(&expected);
    let rois: Vec<Roi> = expected
        .boxes("rois")
        .iter()
        .enumerate()
        .map(|(index, &BBox { x1, y1, x2, y2 })| Roi { batch_index: index / 3, x1, y1, x2, y2 })
        .collect();
    let pooled = pool_rois(&pyramid, &rois, &config().box_head.pool);
    expected.assert_close("roi_features", &nchw(&pooled));
    let boxes = detector.roi.boxes.head.forward(pooled);
    expected.assert_close("class_logits", &host(boxes.class_logits));
    expected.assert_close("box_deltas", &host(boxes.deltas));
    let pooled = pool_rois(&pyramid, &rois, &MaskBranchConfig::default().pool);
    expected.assert_close("roi_mask_features", &nchw(&pooled));
    expected.assert_close("mask_logits", &nchw(&detector.roi.mask.unwrap().head.forward(pooled)));
}

#[test]
fn detections_agree() {
    let expected = Expected::read();
    let (detector, _) = detector_and_pyramid(&expected);
    for (image, found) in detector.detect(&images(&Device::flex())).iter().enumerate() {
        let labels: Vec<f32> = found.labels.iter().map(|label| (label + 1) as f32).collect();
        assert_eq!(labels, expected.values(&format!("detection_labels_{image}")));
        expected.assert_close(&format!("detection_scores_{image}"), &found.scores);
        expected.assert_close(&format!("detection_boxes_{image}"), &edges(&found.boxes));
        let masks: Vec<f32> =
            found.masks.as_ref().unwrap().iter().flat_map(|mask| &mask.probabilities).copied().collect();
        expected.assert_close(&format!("detection_masks_{image}"), &masks);
    }
}

/// The pixels whose centres lie in the ellipse that touches the box.
fn ellipse(object: &BBox, size: ImageSize) -> InstanceMask {
    let mut pixels = Vec::new();
    for row in 0..size.height {
        pixels.extend((0..size.width).map(|column| {
            let across = (2.0 * (column as f32 + 0.5) - object.x1 - object.x2) / object.width();
            let down = (2.0 * (row as f32 + 0.5) - object.y1 - object.y2) / object.height();
            u8::from(across * across + down * down <= 1.0)
        }));
    }
    InstanceMask::from_full(size, &pixels)
}

/// A training step; all candidates are sampled, so that nothing is left to chance. Checks its losses.
fn step(expected: &Expected) -> (Detector, Losses) {
    let device = Device::flex().autodiff();
    let mut config = config();
    let mask_head = config.mask_head.as_mut().unwrap();
    mask_head.conventions.target = MaskTarget::Interpolated;
    let detector = load_detector(Detector::init(&config, &device), &StateDict::new(expected.weights())).unwrap();
    let objects = vec![BBox::new(10.0, 12.0, 70.0, 90.0), BBox::new(80.0, 30.0, 170.0, 110.0)];
    let masks = objects.iter().map(|object| ellipse(object, SIZES[0])).collect();
    let targets = [
        Targets { boxes: objects, labels: vec![1, 3], masks: Some(masks) },
        Targets { masks: Some(Vec::new()), ..Targets::default() },
    ];
    let losses = detector.forward_train(&images(&device), &targets, &mut ChaCha8Rng::seed_from_u64(0));
    for (name, loss) in [
        ("loss_objectness", &losses.rpn_objectness),
        ("loss_rpn_box_reg", &losses.rpn_box),
        ("loss_classifier", &losses.roi_class),
        ("loss_box_reg", &losses.roi_box),
        ("loss_mask", losses.roi_mask.as_ref().unwrap()),
    ] {
        expected.assert_close(&format!("loss.{name}"), &host(loss.clone()));
    }
    (detector, losses)
}

/// Norms and biases of this model keep what ReLUs get away from zero: nothing hides in the gradients' tolerance.
#[test]
fn every_gradient_agrees_where_relus_are_decided() {
    let expected = Expected::read_file("mask_rcnn_r18_open");
    let (detector, losses) = step(&expected);
    let gradients: BTreeMap<String, Vec<f32>> = gradients_named(detector, &losses, WeightLayout::Torchvision)
        .iter()
        .map(|(name, gradient)| (name.to_owned(), gradient.iter::<f32>().collect()))
        .collect();
    let names = expected.names("gradient.");
    assert_eq!(names.len(), 62);
    for name in names {
        let step = gradients[&name].len().div_ceil(MAX_STORED_OF_GRADIENT) | 1;
        let found: Vec<f32> = gradients[&name].iter().step_by(step).copied().collect();
        expected.assert_within(TOLERANCE_OF_OPEN, &format!("gradient.{name}"), &found);
    }
}

#[test]
fn losses_and_gradients_agree() {
    let expected = Expected::read();
    let (detector, losses) = step(&expected);
    let gradients = losses.total().backward();
    macro_rules! assert_gradient {
        ($name:literal, $param:expr) => {
            assert_gradient!($name, $param, TOLERANCE)
        };
        ($name:literal, $param:expr, $tolerance:expr) => {
            let gradient = $param.val().grad(&gradients).expect("a trainable parameter has a gradient");
            expected.assert_within($tolerance, concat!("gradient.", $name), &host(gradient));
        };
    }
    let Detector { backbone, neck, rpn, roi } = &detector;
    assert_gradient!("backbone.body.conv1.weight", backbone.stem.weight, TOLERANCE_BELOW_RELUS);
    let shortcut = backbone.stages[1][0].shortcut.as_ref().unwrap();
    assert_gradient!("backbone.body.layer2.0.downsample.0.weight", shortcut.weight, TOLERANCE_BELOW_RELUS);
    let last = &backbone.stages[3][1].convs[1];
    assert_gradient!("backbone.body.layer4.1.conv2.weight", last.weight, TOLERANCE_BELOW_HEADS);
    assert_gradient!("backbone.fpn.inner_blocks.0.0.weight", neck.laterals[0].weight, TOLERANCE_BELOW_HEADS);
    assert_gradient!("backbone.fpn.layer_blocks.3.0.bias", neck.outputs[3].bias.as_ref().unwrap());
    assert_gradient!("rpn.head.conv.0.0.weight", rpn.head.convs[0].weight);
    assert_gradient!("rpn.head.bbox_pred.weight", rpn.head.deltas.weight);
    assert_gradient!("roi_heads.box_predictor.cls_score.bias", roi.boxes.head.class_logits.bias);
    assert_gradient!("roi_heads.box_predictor.bbox_pred.bias", roi.boxes.head.deltas.bias);
    let mask_logits = &roi.mask.as_ref().unwrap().head.logits;
    assert_gradient!("roi_heads.mask_predictor.mask_fcn_logits.weight", mask_logits.weight);
}

#[test]
fn weights_of_another_model_are_refused_by_name() {
    let expected = Expected::read();
    let mut weights: BTreeMap<String, TensorData> = expected.weights().into_iter().collect();
    weights.remove("rpn.head.cls_logits.bias");
    weights.insert("backbone.body.extra.weight".into(), TensorData::zeros::<f32, _>([1]));
    weights.insert("roi_heads.box_predictor.cls_score.bias".into(), TensorData::zeros::<f32, _>([91]));
    let detector = Detector::init(&config(), &Device::flex());
    assert!(detector.num_params() > 20_000_000);
    let error = load_detector(detector, &StateDict::new(weights)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the weights (names as in torchvision) are of another model: 1 missing (rpn.head.cls_logits.bias); 1 not in the model \
         (backbone.body.extra.weight); 1 of another shape (roi_heads.box_predictor.cls_score.bias [91] instead of [5])"
    );
}
