//! Scores against pycocotools' numbers, and against what must come out when the ground truth itself is detected.

#![allow(clippy::unwrap_used, reason = "a broken fixture fails the test")]

mod common;

use cbn_detection::data::{Split, SplitPaths};
use cbn_detection::eval::{
    CocoDetection, EvalConfig, EvalError, GroundTruth, IouType, Summary, evaluate, read_results, write_results,
};
use serde_json::Value;
use std::path::Path;

/// pycocotools' names in `expected.json`, in the order of [`Summary::named`].
const EXPECTED_NAMES: [&str; 12] = [
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
];

/// Sums of a few hundred numbers below 1 in another order may differ in the last digits, and by no more.
const TOLERANCE: f64 = 1e-12;

fn assert_matches(summary: &Summary, expected: &Value) {
    for ((name, value), key) in summary.named().iter().zip(EXPECTED_NAMES) {
        let (value, expected) = (value.unwrap(), expected["stats"][key].as_f64().unwrap());
        assert!((value - expected).abs() <= TOLERANCE, "{name}: {value} instead of {expected}");
    }
    assert_eq!(summary.per_class.len(), 80);
    for class in &summary.per_class {
        let expected = &expected["per_category_AP"][class.category_id.to_string()];
        match (class.ap, expected.as_f64()) {
            (Some(ap), Some(expected)) => assert!((ap - expected).abs() <= TOLERANCE, "{}: {ap}", class.name),
            (ap, expected) => assert_eq!(ap, expected, "{}", class.name),
        }
    }
}

#[test]
fn all_numbers_equal_those_of_pycocotools() {
    let dir = common::fixture("coco_eval/coco_val2014_100");
    let expected: Value = serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
    let ground_truth = GroundTruth::load(&dir.join("instances_val2014_100.json")).unwrap();
    for iou_type in [IouType::Bbox, IouType::Segm] {
        let name = iou_type.name();
        let detections = read_results(&dir.join(format!("instances_val2014_fake{name}100_results.json"))).unwrap();
        let summary = evaluate(&ground_truth, &detections, iou_type, &EvalConfig::default()).unwrap();
        assert_matches(&summary, &expected[name]);
    }
}

#[test]
fn results_survive_writing_and_reading() {
    let dir = common::fixture("coco_eval/coco_val2014_100");
    let ground_truth = GroundTruth::load(&dir.join("instances_val2014_100.json")).unwrap();
    let detections = read_results(&dir.join("instances_val2014_fakesegm100_results.json")).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("detections.json");
    write_results(&path, &detections).unwrap();
    let score = |detections: &[CocoDetection]| {
        evaluate(&ground_truth, detections, IouType::Segm, &EvalConfig::default()).unwrap()
    };
    assert_eq!(score(&read_results(&path).unwrap()), score(&detections));
}

/// The ground truth's annotations, crowds left out, as detections of score 1.
fn detect_the_truth(annotations: &Path) -> Vec<CocoDetection> {
    let file: hotcoco::Dataset = serde_json::from_slice(&std::fs::read(annotations).unwrap()).unwrap();
    let sizes: std::collections::HashMap<u64, (u32, u32)> =
        file.images.iter().map(|image| (image.id, (image.height, image.width))).collect();
    let objects = file.annotations.into_iter().filter(|annotation| !annotation.iscrowd);
    objects
        .map(|annotation| {
            let (height, width) = sizes[&annotation.image_id];
            let rle = annotation.segmentation.unwrap().to_rle(height, width).unwrap();
            let counts = hotcoco::mask::rle_to_string(&rle);
            CocoDetection {
                image_id: annotation.image_id,
                category_id: annotation.category_id,
                bbox: annotation.bbox,
                score: 1.0,
                segmentation: Some(hotcoco::Segmentation::CompressedRle { size: [height, width], counts }),
            }
        })
        .collect()
}

fn assert_truth_scores_one(data_set: &str, max_detections: [usize; 3]) {
    let Some(dir) = common::data_set(data_set) else { return };
    let paths = SplitPaths::in_dir(&dir, Split::Val).unwrap();
    let ground_truth = GroundTruth::load(&paths.annotations).unwrap();
    let detections = detect_the_truth(&paths.annotations);
    for iou_type in [IouType::Bbox, IouType::Segm] {
        let summary = evaluate(&ground_truth, &detections, iou_type, &EvalConfig { max_detections }).unwrap();
        // The mean of 1010 ones is exact.
        assert_eq!(summary.ap, Some(1.0), "{}", iou_type.name());
        assert_eq!(summary.ar[2], Some(1.0), "{}", iou_type.name());
    }
}

#[test]
fn the_truth_of_coco_mini_scores_one() {
    assert_truth_scores_one("coco_mini", [1, 10, 100]);
}

#[test]
fn the_truth_of_crowded_images_scores_one_with_enough_detections() {
    assert_truth_scores_one("nuclei_dsb2018", [1, 100, 1000]);
}

#[test]
fn without_detections_every_number_is_zero() {
    let dir = common::fixture("coco_eval/coco_val2014_100");
    let ground_truth = GroundTruth::load(&dir.join("instances_val2014_100.json")).unwrap();
    let summary = evaluate(&ground_truth, &[], IouType::Bbox, &EvalConfig::default()).unwrap();
    assert!(summary.named().iter().all(|(_, value)| *value == Some(0.0)));
}

#[test]
fn faults_of_the_input_are_named() {
    let dir = common::fixture("coco_eval/coco_val2014_100");
    let ground_truth = GroundTruth::load(&dir.join("instances_val2014_100.json")).unwrap();
    let detection = read_results(&dir.join("instances_val2014_fakebbox100_results.json")).unwrap().remove(0);
    let message = |change: fn(&mut CocoDetection), iou_type: IouType| {
        let mut detection = detection.clone();
        change(&mut detection);
        evaluate(&ground_truth, &[detection], iou_type, &EvalConfig::default()).unwrap_err().to_string()
    };
    assert_eq!(
        message(|detection| detection.image_id = 5, IouType::Bbox),
        "detection 0 is on image 5, which is not in the ground truth; are the two from the same split?"
    );
    assert_eq!(
        message(|detection| detection.category_id = 12, IouType::Bbox),
        "detection 0 has category id 12, which is not in the ground truth"
    );
    assert_eq!(
        message(|_| (), IouType::Segm),
        "detection 0 (image 42) has no segmentation, so masks cannot be scored; evaluate boxes only"
    );
    assert_eq!(
        message(|detection| detection.bbox = None, IouType::Bbox),
        "detection 0 (image 42) has neither bbox nor segmentation"
    );
    let limits = EvalConfig { max_detections: [1, 100, 10] };
    assert!(matches!(
        evaluate(&ground_truth, &[], IouType::Bbox, &limits),
        Err(EvalError::MaxDetections([1, 100, 10]))
    ));
}

#[test]
fn files_of_another_kind_are_named() {
    let dir = common::fixture("coco_eval/coco_val2014_100");
    let error = read_results(&dir.join("instances_val2014_100.json")).unwrap_err().to_string();
    assert!(error.contains("instances_val2014_100.json is not a COCO results file: "), "{error}");
    let error = GroundTruth::load(&dir.join("expected.json")).unwrap_err().to_string();
    assert!(error.ends_with("expected.json is not COCO ground truth: it lists no images or no categories"), "{error}");
    let error = common::told(&GroundTruth::load(&dir.join("missing.json")).unwrap_err());
    assert!(error.contains("missing.json: No such file"), "{error}");
}
