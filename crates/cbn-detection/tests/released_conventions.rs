//! The released recipes' conventions against `tools/parity/released_numpy.py`, which was written from their description alone.
//!
//! There, boxes end with their last pixel; here with its right edge. Box numbers agree to 1e-5 of the largest: both sides take f32 inputs, this
//! one computes in f32, a handful of roundings of 6e-8 each. Whole numbers, masks and bytes are equal.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use cbn::FeatureMap;
use cbn::ops::Roi;
use cbn_detection::data::{MaskPaste, MaskResize, Pixels, ResizeRule, TransformConfig, TransformConventions};
use cbn_detection::eval::paste_mask;
use cbn_detection::model::roi::pool_rois;
use cbn_detection::model::rpn::AnchorGenerator;
use cbn_detection::model::{AnchorConfig, AnchorLayout, RoiPoolConfig, RoiRule};
use cbn_detection::ops::{BestCandidates, BoxCoder, DeltaClamp, Match, Matcher};
use cbn_detection::structures::{BBox, BoxConvention, ImageSize, InstanceMask, MaskTarget, Pyramid, SoftMask};
use hotcoco::Segmentation;
use serde_json::Value;

const TOLERANCE: f32 = 1e-5;

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/released/conventions.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn boxes(value: &Value) -> Vec<BBox> {
    read::<Vec<[f32; 4]>>(value).into_iter().map(|[x1, y1, x2, y2]| BBox::new(x1, y1, x2 + 1.0, y2 + 1.0)).collect()
}

fn size(value: &Value) -> ImageSize {
    let [height, width] = read(value);
    ImageSize::new(height, width)
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= TOLERANCE * largest, "{what} {index}: {found}, expected {expected}");
    }
}

fn edges(boxes: &[BBox]) -> Vec<f32> {
    boxes.iter().flat_map(|bbox| bbox.to_array()).collect()
}

/// Lengths of equal values, starting with zeros.
fn from_runs(runs: &Value) -> Vec<u8> {
    let runs: Vec<usize> = read(runs);
    runs.iter().enumerate().flat_map(|(index, &run)| vec![(index % 2) as u8; run]).collect()
}

#[test]
fn anchors_are_equal() {
    let case = &fixture()["anchors"];
    let generator = AnchorGenerator::new(&AnchorConfig::default(), AnchorLayout::InclusivePixels);
    let padded: [usize; 2] = read(&case["padded"]);
    for (level, stride) in [4, 8, 16, 32, 64].into_iter().enumerate() {
        let map = padded.map(|side| side.div_ceil(stride));
        let anchors = generator.on_level(level, map, padded);
        assert_eq!(anchors[..3], boxes(&case["base"][level]), "level {level}");
        assert_eq!(anchors.last(), boxes(&Value::from(vec![case["last"][level].clone()])).last(), "level {level}");
    }
}

#[test]
fn deltas_agree_in_both_directions() {
    let case = &fixture()["coding"];
    let image = size(&case["image"]);
    let (references, gt) = (boxes(&case["boxes"]), boxes(&case["gt"]));
    let deltas: Vec<[f32; 4]> = read(&case["deltas"]);
    for (weights, suffix) in [([1.0; 4], ""), ([10.0, 10.0, 5.0, 5.0], "_box_head")] {
        let coder = BoxCoder::new(weights, DeltaClamp::Both);
        let pairs = gt.iter().zip(&references);
        let encoded: Vec<f32> = pairs.flat_map(|(gt_box, reference)| coder.encode(gt_box, reference)).collect();
        let expected: Vec<[f32; 4]> = read(&case[format!("encoded{suffix}")]);
        assert_close("encoded", &encoded, &expected.concat());
        let decode = |(deltas, reference): (&[f32; 4], &BBox)| {
            BoxConvention::LegacyInclusive.clip(&coder.decode(*deltas, reference), image)
        };
        let decoded: Vec<BBox> = deltas.iter().zip(&references).map(decode).collect();
        assert_close("decoded", &edges(&decoded), &edges(&boxes(&case[format!("decoded{suffix}")])));
    }
}

#[test]
fn assignments_with_ties_are_equal() {
    for case in fixture()["assignments"].as_array().unwrap() {
        let [positive_iou, negative_iou, min_iou]: [f32; 3] = read(&case["thresholds"]);
        let matcher = Matcher { positive_iou, negative_iou, best: BestCandidates::Claimed { min_iou } };
        let found: Vec<i64> = matcher
            .assign(&boxes(&case["gt"]), &boxes(&case["boxes"]))
            .into_iter()
            .map(|found| match found {
                Match::Object(gt_index) => gt_index as i64,
                Match::Background => -1,
                Match::Ignored => -2,
            })
            .collect();
        let expected: Vec<i64> = read(&case["assigned"]);
        assert_eq!(found, expected, "{positive_iou}");
        // The case has what it is for: the last of two equal boxes claims, the first one would win by IoU alone.
        assert!(expected.contains(&4) && !expected.contains(&3));
    }
}

#[test]
fn levels_and_crops_agree() {
    let case = &fixture()["rois"];
    let device = Device::flex();
    let mut levels: Vec<FeatureMap> = read::<Vec<Vec<Vec<f32>>>>(&case["planes"])
        .into_iter()
        .map(|plane| {
            let shape = [1, plane.len(), plane[0].len(), 1];
            FeatureMap::from_nhwc(Tensor::from_data(TensorData::new(plane.concat(), shape), &device))
        })
        .collect();
    levels.push(levels[3].clone());
    let pyramid = Pyramid { levels, strides: vec![4, 8, 16, 32, 64] };
    let rois: Vec<Roi> = boxes(&case["boxes"])
        .into_iter()
        .map(|BBox { x1, y1, x2, y2 }| Roi { batch_index: 0, x1, y1, x2, y2 })
        .collect();
    let config = RoiPoolConfig { side: 3, sampling_ratio: 2, aligned: false, rule: RoiRule::Released };
    let pooled = pool_rois(&pyramid, &rois, &config).into_nhwc().into_data().try_to_vec::<f32>().unwrap();
    // A wrong level would show: its plane has other values.
    assert_close("pooled", &pooled, &read::<Vec<Vec<f32>>>(&case["pooled"]).concat());
}

#[test]
fn mask_targets_are_equal() {
    let case = &fixture()["masks"];
    let mask = InstanceMask::from_full(size(&case["size"]), &from_runs(&case["mask"]));
    for (bbox, expected) in boxes(&case["boxes"]).iter().zip(case["targets"].as_array().unwrap()) {
        let found: Vec<u8> = MaskTarget::WholePixels.cells(&mask, bbox, 28).iter().map(|&cell| cell as u8).collect();
        assert_eq!(found, from_runs(expected), "{bbox:?}");
    }
}

#[test]
fn pasted_masks_are_equal() {
    let case = &fixture()["masks"];
    let (image, scale): (_, f32) = (size(&case["size"]), read(&case["scale"]));
    let mask = SoftMask { side: 28, probabilities: read(&case["probabilities"]) };
    for (bbox, expected) in boxes(&case["found"]).iter().zip(case["pasted"].as_array().unwrap()) {
        let original = BoxConvention::LegacyInclusive.to_original(bbox, [scale; 2], image);
        let pasted = paste_mask(&mask, &original, image, MaskPaste::WholePixels).to_full();
        assert_eq!(pasted, from_runs(expected), "{bbox:?}");
    }
}

#[test]
fn resized_bytes_are_opencvs() {
    for case in fixture()["resize"].as_array().unwrap() {
        let [height, width]: [usize; 2] = read(&case["from"]);
        let at = |y: usize, x: usize, c: usize| ((x * x * 7 + y * y * 5 + c * 31 + x * y * 3) % 256) as u8;
        let mut image = Vec::new();
        for y in 0..height {
            (0..width).for_each(|x| image.extend([at(y, x, 0), at(y, x, 1), at(y, x, 2)]));
        }
        let resized = cbn_kernels::resize_bilinear_u8(&image, [height, width], 3, read(&case["to"]));
        assert_eq!(resized, read::<Vec<u8>>(&case["pixels"]), "{height}x{width}");
    }
}

#[test]
fn sizes_and_boxes_of_training_images_agree() {
    let case = &fixture()["sizes"];
    let config = TransformConfig {
        conventions: TransformConventions {
            resize: ResizeRule::OpenCv,
            boxes: BoxConvention::LegacyInclusive,
            masks: MaskResize::OpenCvNearest,
            paste: MaskPaste::WholePixels,
        },
        ..TransformConfig::default()
    };
    let annotated = BBox::from_xywh(read(&case["box"]));
    let cases = case["sizes"].as_array().unwrap().iter().zip(case["fitted"].as_array().unwrap());
    for ((original, fitted), expected) in cases.zip(case["boxes"].as_array().unwrap()) {
        let mut transform = config.for_test(size(original));
        let [height, width, factor]: [f32; 3] = read(fitted);
        assert_eq!(transform.resized, ImageSize::new(height as usize, width as usize));
        assert_close("scale", &transform.scale(), &[factor; 2]);
        let plain = transform.apply_to_box(&annotated);
        transform.flip = true;
        let flipped = transform.apply_to_box(&annotated);
        assert_close("box", &edges(&[plain, flipped]), &edges(&boxes(expected)));
    }
}

#[test]
fn masks_of_training_images_are_equal() {
    let case = &fixture()["training_masks"];
    let original = size(&case["size"]);
    let segmentation = Segmentation::UncompressedRle {
        size: [original.height as u32, original.width as u32],
        counts: read(&case["columns"]),
    };
    for case in case["cases"].as_array().unwrap() {
        let resized = size(&case["to"]);
        let mut config = TransformConfig {
            min_side_px: vec![resized.height.min(resized.width)],
            max_side_px: 10_000,
            ..TransformConfig::default()
        };
        config.conventions.masks = MaskResize::OpenCvNearest;
        let mut transform = config.for_test(original);
        assert_eq!(transform.resized, resized);
        assert_eq!(transform.apply_to_segmentation(&segmentation).unwrap().to_full(), from_runs(&case["plain"]));
        transform.flip = true;
        assert_eq!(transform.apply_to_segmentation(&segmentation).unwrap().to_full(), from_runs(&case["flipped"]));
    }
}

/// A polygon is first what it is in the original image: no finer edge comes of enlarging it.
#[test]
fn polygons_are_rasterised_at_original_size() {
    let triangle = Segmentation::Polygon(vec![vec![1.0, 1.0, 7.0, 2.0, 2.0, 7.0]]);
    let original = ImageSize::new(8, 9);
    let of = |masks: MaskResize, min_side_px: usize| {
        let mut config = TransformConfig { min_side_px: vec![min_side_px], ..TransformConfig::default() };
        config.conventions.masks = masks;
        config.for_test(original).apply_to_segmentation(&triangle).unwrap().to_full()
    };
    for rule in [MaskResize::OpenCvNearest, MaskResize::TorchNearest] {
        let (small, large) = (of(rule, 8), of(rule, 16));
        let repeated: Vec<u8> = (0..16 * 18).map(|at| small[at / 18 / 2 * 9 + at % 18 / 2]).collect();
        assert_eq!(large, repeated, "{rule:?}");
        assert_ne!(large, of(MaskResize::Outlines, 16));
        assert_eq!(small, of(MaskResize::Outlines, 8));
    }
}

#[test]
fn an_image_is_mirrored_after_its_resize() {
    let image = image::RgbImage::from_fn(2, 1, |x, _| image::Rgb([x as u8, 10, 20]));
    let config = TransformConfig { min_side_px: vec![1], max_side_px: 2, ..TransformConfig::default() };
    let mut transform = config.for_test(ImageSize::new(1, 2));
    transform.flip = true;
    assert_eq!(transform.apply_to_image(&image).pixels, Pixels::Bytes(vec![1, 10, 20, 0, 10, 20]));
}
