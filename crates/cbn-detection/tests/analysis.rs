//! What explains a score agrees with the score.

#![allow(clippy::unwrap_used, reason = "a broken fixture fails the test")]

mod common;

use cbn_detection::eval::{Analysis, CocoDetection, EvalConfig, GroundTruth, IouType, analyze, read_results};
use serde_json::json;

/// Sums of a few hundred numbers below 1 in another order may differ in the last digits, and by no more.
const TOLERANCE: f64 = 1e-12;

#[track_caller]
fn assert_close(found: Option<f64>, expected: Option<f64>, what: &str) {
    let (found, expected) = (found.unwrap(), expected.unwrap());
    assert!((found - expected).abs() <= TOLERANCE, "{what}: {found}, expected {expected}");
}

fn coco_example(iou_type: IouType) -> Analysis {
    let dir = common::fixture("coco_eval/coco_val2014_100");
    let ground_truth = GroundTruth::load(&dir.join("instances_val2014_100.json")).unwrap();
    let name = iou_type.name();
    let detections = read_results(&dir.join(format!("instances_val2014_fake{name}100_results.json"))).unwrap();
    analyze(&ground_truth, &detections, iou_type, &EvalConfig::default()).unwrap()
}

fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.flatten().collect();
    Some(values.iter().sum::<f64>() / values.len() as f64)
}

/// The evaluator's numbers equal pycocotools' (`coco_eval.rs`); everything else is derived again by its own road.
#[test]
fn curves_classes_and_samples_add_up_to_the_score() {
    for iou_type in [IouType::Bbox, IouType::Segm] {
        let analysis = coco_example(iou_type);
        let summary = &analysis.summary;
        for (at, (sampled, scored)) in
            analysis.samples.ap().into_iter().zip([summary.ap, summary.ap50, summary.ap75]).enumerate()
        {
            assert_close(sampled, scored, &format!("samples {at}"));
        }
        for (curve, scored) in analysis.curves.iter().zip([summary.ap50, summary.ap75, summary.ap]) {
            assert_eq!(curve.precision.len(), 101);
            assert_close(mean(curve.precision.iter().map(|value| Some(*value))), scored, &curve.name);
        }
        assert_close(mean(analysis.classes.iter().map(|class| class.ap)), summary.ap, "classes AP");
        assert_close(mean(analysis.classes.iter().map(|class| class.ap50)), summary.ap50, "classes AP50");
        assert_close(mean(analysis.classes.iter().map(|class| class.ap75)), summary.ap75, "classes AP75");
        let found: Vec<Option<f64>> = analysis.classes.iter().map(|class| class.ap).collect();
        let expected: Vec<Option<f64>> = summary.per_class.iter().map(|class| class.ap).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn counts_of_images_add_up_to_the_operating_point() {
    let analysis = coco_example(IouType::Bbox);
    let sum = |count: fn(&cbn_detection::eval::ImageScore) -> usize| analysis.images.iter().map(count).sum::<usize>();
    let (correct, wrong, missed) =
        (sum(|image| image.num_correct), sum(|image| image.num_wrong), sum(|image| image.num_missed));
    let point = analysis.operating_point;
    assert_close(Some(point.precision), Some(correct as f64 / (correct + wrong) as f64), "precision");
    assert_close(Some(point.recall), Some(correct as f64 / (correct + missed) as f64), "recall");
    assert_eq!(correct + missed, analysis.classes.iter().map(|class| class.num_objects).sum::<usize>());
    assert_eq!(correct, analysis.found_annotations.len());
    assert_eq!(analysis.images.len(), 100);
    let bins = analysis.calibration.bins.iter().map(|bin| bin.count).sum::<usize>();
    assert_eq!(bins, analysis.is_correct.iter().flatten().count());
}

fn detection(image_id: u64, category_id: u64, bbox: [f64; 4], score: f64) -> CocoDetection {
    CocoDetection { image_id, category_id, bbox: Some(bbox), score, segmentation: None }
}

#[test]
fn every_kind_of_mistake_is_told_by_hand_checked_boxes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("truth.json");
    let object = |id, image, category, bbox: [i32; 4]| json!({ "id": id, "image_id": image, "category_id": category, "bbox": bbox, "area": 100, "iscrowd": 0 });
    let images = [1, 2, 3].map(|id| json!({ "id": id, "file_name": "a.png", "width": 100, "height": 100 }));
    let truth = json!({
        "images": images,
        "categories": [{ "id": 1, "name": "cat" }, { "id": 2, "name": "dog" }],
        "annotations": [
            object(11, 1, 1, [0, 0, 10, 10]),
            object(12, 1, 1, [50, 50, 10, 10]),
            object(13, 2, 2, [0, 0, 10, 10]),
        ],
    });
    std::fs::write(&path, truth.to_string()).unwrap();
    let detections = [
        detection(1, 1, [0.0, 0.0, 10.0, 10.0], 0.9),
        // The same object again.
        detection(1, 1, [0.0, 0.0, 10.0, 9.0], 0.8),
        // Background.
        detection(1, 1, [80.0, 80.0, 10.0, 10.0], 0.3),
        // A dog taken for a cat.
        detection(2, 1, [0.0, 0.0, 10.0, 10.0], 0.2),
    ];
    let truth = GroundTruth::load(&path).unwrap();
    let analysis = analyze(&truth, &detections, IouType::Bbox, &EvalConfig::default()).unwrap();
    assert_eq!(analysis.is_correct, [Some(true), Some(false), Some(false), Some(false)]);
    assert_eq!(analysis.found_annotations.iter().collect::<Vec<_>>(), [&11]);
    // One of one correct, one of three found: F1 1/2; every further detection lowers it.
    let point = analysis.operating_point;
    assert_eq!((point.score, point.precision, point.recall, point.f1), (0.9, 1.0, 1.0 / 3.0, 0.5));
    let images: Vec<[usize; 3]> =
        analysis.images.iter().map(|image| [image.num_correct, image.num_wrong, image.num_missed]).collect();
    assert_eq!(images, [[1, 0, 1], [0, 0, 1], [0, 0, 0]]);
    assert_eq!((analysis.images[0].f1(), analysis.images[2].f1()), (2.0 / 3.0, 1.0));
    let count = |name: &str| analysis.errors.iter().find(|kind| kind.name == name).unwrap().count;
    assert_eq!(
        ["wrong class", "badly placed", "found twice", "background", "missed"].map(count),
        [Some(1), Some(0), Some(1), Some(1), Some(1)],
        "the dog is not missed but misnamed"
    );
    // Nine tenths sure and right; the others are wrong.
    let bins: Vec<(f64, usize)> = analysis.calibration.bins.iter().map(|bin| (bin.accuracy, bin.count)).collect();
    assert_eq!(bins, [(0.0, 1), (0.0, 1), (0.0, 1), (1.0, 1)]);
}
