//! From class logits and deltas to detections: plain arithmetic on the host.

use crate::{
    model::config::{BoxBranchConfig, SuppressionScale},
    ops::{BoxCoder, nms_by_group},
    structures::{BBox, Detections, ImageSize, Proposals},
};

/// Detections with a shorter side are dropped, in pixels (torchvision `RoIHeads.postprocess_detections`).
const MIN_SIDE_PX: f32 = 1e-2;

/// What the box head says about the proposals of one image; K classes without background.
pub(super) struct BoxPredictions<'a> {
    /// `[N, K + 1]`, background first.
    pub class_logits: &'a [f32],
    /// `[N, K + 1, 4]`, those of the background unused.
    pub deltas: &'a [f32],
    /// K.
    pub num_classes: usize,
}

/// Every class of every proposal that scores above the threshold, near-duplicates included, in no order.
pub(super) fn candidates(
    predictions: &BoxPredictions<'_>,
    proposals: &Proposals,
    image: ImageSize,
    config: &BoxBranchConfig,
) -> Detections {
    let coder = BoxCoder::new(config.box_weights, config.conventions.clamp);
    let num_logits = predictions.num_classes + 1;
    let (mut boxes, mut scores, mut labels): (Vec<BBox>, Vec<f32>, Vec<usize>) = Default::default();
    for (roi, (proposal, logits)) in
        proposals.boxes.iter().zip(predictions.class_logits.chunks_exact(num_logits)).enumerate()
    {
        for (logit_index, score) in softmax(logits).enumerate().skip(1) {
            if score <= config.score_threshold || score.is_nan() {
                continue;
            }
            let start = (roi * num_logits + logit_index) * 4;
            let deltas = std::array::from_fn(|k| predictions.deltas[start + k]);
            let bbox = config.conventions.boxes.clip(&coder.decode(deltas, proposal), image);
            if config.conventions.boxes.is_large(&bbox, MIN_SIDE_PX) {
                boxes.push(bbox);
                scores.push(score);
                labels.push(logit_index - 1);
            }
        }
    }
    Detections { boxes, scores, labels, masks: None }
}

/// The candidates of one image rid of near-duplicates within their class, best first; `scale` is how many network pixels an original pixel has,
/// horizontally and vertically.
pub(super) fn suppress(candidates: &Detections, scale: [f32; 2], config: &BoxBranchConfig) -> Detections {
    let Detections { boxes, scores, labels, .. } = candidates;
    let mut kept = match config.conventions.suppression {
        SuppressionScale::Network => nms_by_group(boxes, scores, labels, config.nms_threshold),
        SuppressionScale::Original => {
            let original: Vec<BBox> = boxes.iter().map(|bbox| config.conventions.boxes.unscale(bbox, scale)).collect();
            nms_by_group(&original, scores, labels, config.nms_threshold)
        }
    };
    kept.truncate(config.max_detections);
    Detections {
        boxes: kept.iter().map(|&index| boxes[index]).collect(),
        scores: kept.iter().map(|&index| scores[index]).collect(),
        labels: kept.iter().map(|&index| labels[index]).collect(),
        masks: None,
    }
}

fn softmax(logits: &[f32]) -> impl Iterator<Item = f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    logits.iter().map(move |logit| (logit - largest).exp() / sum)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{ops::DeltaClamp, structures::BoxConvention};

    const IMAGE: ImageSize = ImageSize::new(100, 100);

    fn select(boxes: &[BBox], probabilities: &[[f32; 3]], max_detections: usize) -> Detections {
        let class_logits: Vec<f32> = probabilities.iter().flatten().map(|probability| probability.ln()).collect();
        let predictions =
            BoxPredictions { class_logits: &class_logits, deltas: &vec![0.0; boxes.len() * 12], num_classes: 2 };
        let proposals = Proposals { boxes: boxes.to_vec(), scores: vec![1.0; boxes.len()] };
        let config = BoxBranchConfig { max_detections, ..BoxBranchConfig::default() };
        suppress(&candidates(&predictions, &proposals, IMAGE, &config), [1.0; 2], &config)
    }

    #[test]
    fn a_proposal_can_be_several_classes_and_duplicates_fall_within_one() {
        let bbox = BBox::new(10.0, 10.0, 50.0, 50.0);
        let found = select(&[bbox, bbox], &[[0.1, 0.3, 0.6], [0.2, 0.5, 0.3]], 100);
        assert_eq!(found.labels, [1, 0]);
        assert_eq!(found.boxes, [bbox, bbox]);
        // The logits went through ln and exp: one rounding each.
        assert!((found.scores[0] - 0.6).abs() < 1e-6 && (found.scores[1] - 0.5).abs() < 1e-6);
    }

    #[test]
    fn low_scores_and_the_background_are_no_detections() {
        let bbox = BBox::new(10.0, 10.0, 50.0, 50.0);
        assert!(select(&[bbox], &[[0.92, 0.04, 0.04]], 100).is_empty());
        assert_eq!(select(&[bbox], &[[0.2, 0.4, 0.4]], 1).len(), 1);
    }

    #[test]
    fn each_class_has_its_own_deltas() {
        let bbox = BBox::new(10.0, 10.0, 50.0, 50.0);
        let mut deltas = vec![0.0; 12];
        deltas[8] = 1.0; // dx of class 1, weight 10: a tenth of the width.
        let predictions = BoxPredictions { class_logits: &[0.0; 3], deltas: &deltas, num_classes: 2 };
        let proposals = Proposals { boxes: vec![bbox], scores: vec![1.0] };
        let config = BoxBranchConfig::default();
        let found = suppress(&candidates(&predictions, &proposals, IMAGE, &config), [1.0; 2], &config);
        assert_eq!(found.labels, [0, 1]);
        assert_eq!(found.boxes, [bbox, BBox::new(14.0, 10.0, 54.0, 50.0)]);
    }

    /// `tools/parity/released_numpy.py`; tolerances as in `tests/released_conventions.rs`.
    #[test]
    fn released_detections_are_those_of_numpy() {
        let fixture = include_str!("../../../../../fixtures/released/conventions.json");
        let fixture: Value = serde_json::from_str(fixture).unwrap();
        assert_numpy(&fixture["detections"], 3);
        // With other boxes than suppression in network pixels keeps, as the script asserts.
        assert_numpy(&fixture["scaled_detections"], 2);
    }

    fn assert_numpy(case: &Value, num_classes: usize) {
        let numbers = |key: &str| serde_json::from_value::<Vec<f32>>(case[key].clone()).unwrap();
        let boxes = |key: &str| -> Vec<BBox> {
            let boxes: Vec<[f32; 4]> = serde_json::from_value(case[key].clone()).unwrap();
            boxes.into_iter().map(|[x1, y1, x2, y2]| BBox::new(x1, y1, x2 + 1.0, y2 + 1.0)).collect()
        };
        let [height, width] = serde_json::from_value(case["image"].clone()).unwrap();
        let scale = [case["scale"].as_f64().unwrap_or(1.0) as f32; 2];
        let mut config = BoxBranchConfig::default();
        config.conventions.boxes = BoxConvention::LegacyInclusive;
        config.conventions.clamp = DeltaClamp::Both;
        config.conventions.suppression = SuppressionScale::Original;
        let predictions = BoxPredictions { class_logits: &numbers("logits"), deltas: &numbers("deltas"), num_classes };
        let rois = boxes("rois");
        let proposals = Proposals { scores: vec![1.0; rois.len()], boxes: rois };
        let image = ImageSize::new(height, width);
        let found = suppress(&candidates(&predictions, &proposals, image, &config), scale, &config);
        let labels: Vec<usize> = serde_json::from_value(case["labels"].clone()).unwrap();
        assert_eq!(found.labels, labels);
        for (found, expected) in found.boxes.iter().zip(boxes("boxes")) {
            let original = BoxConvention::LegacyInclusive.to_original(found, scale, image);
            let edges = original.to_array().into_iter().zip(expected.to_array());
            edges.for_each(|(found, expected)| assert!((found - expected).abs() < 150.0 * 1e-5, "{found} {expected}"));
        }
        for (found, expected) in found.scores.iter().zip(numbers("scores")) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}
