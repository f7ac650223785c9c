//! From the RPN's predictions to proposals: plain arithmetic on the host, no gradient.

use crate::{
    model::config::{ProposalConfig, RpnConfig},
    ops::nms_by_group,
    structures::{BBox, ImageSize, Proposals},
};

/// Proposals with a shorter side are dropped, in pixels (torchvision `RegionProposalNetwork.min_size`).
const MIN_SIDE_PX: f32 = 1e-3;

/// What the RPN says about the anchors of one image, all levels one after the other.
pub(super) struct ImagePredictions<'a> {
    pub anchors: &'a [BBox],
    pub objectness: &'a [f32],
    pub deltas: &'a [f32],
    /// Number of anchors of each level.
    pub level_lens: &'a [usize],
}

/// Best anchors of each level, decoded, clipped to the image, rid of near-duplicates; the best of them over all levels.
pub(super) fn select_proposals(
    predictions: &ImagePredictions<'_>,
    image: ImageSize,
    limits: ProposalConfig,
    config: &RpnConfig,
) -> Proposals {
    let coder = config.coder();
    let (mut boxes, mut logits, mut levels) = (Vec::new(), Vec::new(), Vec::new());
    let mut start = 0;
    for (level, &len) in predictions.level_lens.iter().enumerate() {
        for position in best(&predictions.objectness[start..start + len], limits.pre_nms_top_n) {
            let index = start + position;
            let deltas = std::array::from_fn(|k| predictions.deltas[index * 4 + k]);
            let bbox = config.conventions.boxes.clip(&coder.decode(deltas, &predictions.anchors[index]), image);
            if config.conventions.boxes.is_large(&bbox, MIN_SIDE_PX) {
                boxes.push(bbox);
                logits.push(predictions.objectness[index]);
                levels.push(level);
            }
        }
        start += len;
    }
    let mut kept = nms_by_group(&boxes, &logits, &levels, config.nms_threshold);
    kept.truncate(limits.post_nms_top_n);
    Proposals {
        boxes: kept.iter().map(|&index| boxes[index]).collect(),
        scores: kept.iter().map(|&index| sigmoid(logits[index])).collect(),
    }
}

/// Positions of the `amount` largest values, largest first; equal values in their order.
fn best(values: &[f32], amount: usize) -> Vec<usize> {
    let falling = |&a: &usize, &b: &usize| values[b].total_cmp(&values[a]).then(a.cmp(&b));
    let mut positions: Vec<usize> = (0..values.len()).collect();
    if amount < positions.len() {
        positions.select_nth_unstable_by(amount, falling);
        positions.truncate(amount);
    }
    positions.sort_unstable_by(falling);
    positions
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ops::DeltaClamp, structures::BoxConvention};

    const IMAGE: ImageSize = ImageSize::new(100, 100);

    fn select(anchors: &[BBox], objectness: &[f32], level_lens: &[usize], limits: ProposalConfig) -> Proposals {
        let deltas = vec![0.0; anchors.len() * 4];
        let predictions = ImagePredictions { anchors, objectness, deltas: &deltas, level_lens };
        select_proposals(&predictions, IMAGE, limits, &RpnConfig::default())
    }

    #[test]
    fn the_largest_values_come_first_and_ties_in_order() {
        assert_eq!(best(&[1.0, 3.0, 2.0, 3.0, 0.0], 3), [1, 3, 2]);
        assert_eq!(best(&[1.0, 2.0], 5), [1, 0]);
    }

    #[test]
    fn levels_are_cut_and_suppressed_apart_and_merged_by_score() {
        let bbox = BBox::new(10.0, 10.0, 50.0, 50.0);
        let other = BBox::new(60.0, 60.0, 90.0, 90.0);
        let limits = ProposalConfig { pre_nms_top_n: 2, post_nms_top_n: 10 };
        // Level 0: the third anchor is cut, the second is a duplicate of the first. Level 1 keeps its own copy.
        let found = select(&[bbox, bbox, other, bbox, other], &[2.0, 1.0, 0.0, -1.0, 3.0], &[3, 2], limits);
        assert_eq!(found.boxes, [other, bbox, bbox]);
        assert_eq!(found.scores, [3.0, 2.0, -1.0].map(sigmoid));
        let one = ProposalConfig { post_nms_top_n: 1, ..limits };
        assert_eq!(select(&[bbox, other], &[2.0, 3.0], &[1, 1], one).boxes, [other]);
    }

    #[test]
    fn anchors_outside_the_image_give_no_proposal() {
        let anchors = [BBox::new(-40.0, 0.0, -5.0, 20.0), BBox::new(90.0, 90.0, 120.0, 95.0)];
        let limits = ProposalConfig { pre_nms_top_n: 2, post_nms_top_n: 2 };
        assert_eq!(select(&anchors, &[5.0, 1.0], &[2], limits).boxes, [BBox::new(90.0, 90.0, 100.0, 95.0)]);
    }

    /// `tools/parity/released_numpy.py`; tolerances as in `tests/released_conventions.rs`.
    #[test]
    fn released_proposals_are_those_of_numpy() {
        let fixture = include_str!("../../../../../fixtures/released/conventions.json");
        let fixture: serde_json::Value = serde_json::from_str(fixture).unwrap();
        let case = &fixture["proposals"];
        let numbers = |key: &str| serde_json::from_value::<Vec<f32>>(case[key].clone()).unwrap();
        let boxes = |key: &str| -> Vec<BBox> {
            let boxes: Vec<[f32; 4]> = serde_json::from_value(case[key].clone()).unwrap();
            boxes.into_iter().map(|[x1, y1, x2, y2]| BBox::new(x1, y1, x2 + 1.0, y2 + 1.0)).collect()
        };
        let deltas: Vec<[f32; 4]> = serde_json::from_value(case["deltas"].clone()).unwrap();
        let level_lens: Vec<usize> = serde_json::from_value(case["level_lens"].clone()).unwrap();
        let [height, width] = serde_json::from_value(case["image"].clone()).unwrap();
        let limit = serde_json::from_value(case["limit"].clone()).unwrap();
        let mut config = RpnConfig::default();
        config.conventions.boxes = BoxConvention::LegacyInclusive;
        config.conventions.clamp = DeltaClamp::Both;
        let predictions = ImagePredictions {
            anchors: &boxes("anchors"),
            objectness: &numbers("logits"),
            deltas: &deltas.concat(),
            level_lens: &level_lens,
        };
        let limits = ProposalConfig { pre_nms_top_n: limit, post_nms_top_n: limit };
        let found = select_proposals(&predictions, ImageSize::new(height, width), limits, &config);
        let expected = boxes("boxes");
        assert_eq!(found.boxes.len(), expected.len());
        for (found, expected) in found.boxes.iter().zip(expected) {
            let edges = found.to_array().into_iter().zip(expected.to_array());
            edges.for_each(|(found, expected)| assert!((found - expected).abs() < 150.0 * 1e-5, "{found} {expected}"));
        }
        for (found, expected) in found.scores.iter().zip(numbers("scores")) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}
