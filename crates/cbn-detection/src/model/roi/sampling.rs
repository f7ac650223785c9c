//! Which proposals the ROI heads learn from.

use crate::{
    model::config::{BoxBranchConfig, GtPlace},
    ops::{BalancedSampler, Draw, Match, Matcher},
    structures::{BBox, Proposals, Targets},
};

/// Regions of one image with what they stand for, positives first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RoiSample {
    pub boxes: Vec<BBox>,
    /// The ground-truth box of each positive, by index: the first `gt_indices.len()` boxes are the positives.
    pub gt_indices: Vec<usize>,
}

impl RoiSample {
    pub fn positives(&self) -> &[BBox] {
        &self.boxes[..self.gt_indices.len()]
    }
}

/// Draws regions from the proposals and the ground-truth boxes themselves, which early on are the only good ones.
pub(super) fn sample_rois<D: Draw>(
    proposals: Proposals,
    targets: &Targets,
    config: &BoxBranchConfig,
    rng: &mut D,
) -> RoiSample {
    let (candidates, matches) = match_candidates(proposals, targets, config);
    let sampler =
        BalancedSampler { batch_size: config.batch_size_per_image, positive_fraction: config.positive_fraction };
    let sample = sampler.sample(&matches, rng);
    let gt_indices = sample
        .positives
        .iter()
        .map(|&index| match matches[index] {
            Match::Object(gt_index) => gt_index,
            Match::Background | Match::Ignored => unreachable!("the sampler's positives are objects"),
        })
        .collect();
    let boxes = sample.positives.iter().chain(&sample.negatives).map(|&index| candidates[index]).collect();
    RoiSample { boxes, gt_indices }
}

/// Proposals and ground-truth boxes, with what each stands for.
fn match_candidates(proposals: Proposals, targets: &Targets, config: &BoxBranchConfig) -> (Vec<BBox>, Vec<Match>) {
    let matcher =
        Matcher { positive_iou: config.positive_iou, negative_iou: config.positive_iou, best: config.conventions.best };
    let proposals = proposals.boxes;
    match config.conventions.gt_place {
        GtPlace::Last => {
            let candidates = [proposals, targets.boxes.clone()].concat();
            let matches = matcher.assign(&targets.boxes, &candidates);
            (candidates, matches)
        }
        GtPlace::First => {
            let own = (0..targets.len()).map(Match::Object);
            let matches = own.chain(matcher.assign(&targets.boxes, &proposals)).collect();
            ([targets.boxes.clone(), proposals].concat(), matches)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn sample(proposals: Vec<BBox>, gt_boxes: Vec<BBox>) -> RoiSample {
        let scores = vec![0.5; proposals.len()];
        let targets = Targets { labels: vec![0; gt_boxes.len()], boxes: gt_boxes, masks: None };
        let config = BoxBranchConfig { batch_size_per_image: 4, ..BoxBranchConfig::default() };
        sample_rois(Proposals { boxes: proposals, scores }, &targets, &config, &mut ChaCha8Rng::seed_from_u64(0))
    }

    #[test]
    fn ground_truth_is_a_candidate_and_positives_come_first() {
        let gt_box = BBox::new(0.0, 0.0, 10.0, 10.0);
        let far = BBox::new(50.0, 50.0, 60.0, 60.0);
        assert_eq!(sample(vec![far], vec![gt_box]), RoiSample { boxes: vec![gt_box, far], gt_indices: vec![0] });
    }

    #[test]
    fn an_image_without_objects_gives_background_only() {
        let far = BBox::new(50.0, 50.0, 60.0, 60.0);
        let found = sample(vec![far; 9], vec![]);
        assert_eq!((found.boxes.len(), found.gt_indices.len()), (4, 0));
    }
}
