use serde::{Deserialize, Serialize};

use crate::structures::BBox;

/// What a candidate box (anchor or proposal) stands for in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The ground-truth box with this index.
    Object(usize),
    /// No object.
    Background,
    /// Neither clearly an object nor clearly background: left out of the loss.
    Ignored,
}

/// What becomes of the candidates that a ground-truth box has its highest IoU with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BestCandidates {
    /// Nothing: thresholds alone decide.
    ByThreshold,
    /// They are objects, each of the box of *its own* highest IoU. A box that touches no candidate has none.
    Kept,
    /// The same, but a box that touches no candidate makes an object of every candidate (torchvision 0.26, where the highest IoU of 0 is
    /// shared by all).
    KeptOrAll,
    /// They are this box's, whatever else they overlap, if the IoU is at least `min_iou`; of several boxes the last one has them
    /// (mmdetection 0.6 `MaxIoUAssigner`).
    Claimed {
        /// Lowest IoU that claims.
        min_iou: f32,
    },
}

/// Assigns ground-truth boxes to candidates by IoU (torchvision 0.26 `Matcher`).
///
/// A candidate takes the box of its highest IoU (the first one if several share it) when that is at least `positive_iou`,
/// is background when it is below `negative_iou`, and is ignored in between. `best` says what else becomes of the candidates
/// that a box has its highest IoU with, ties included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matcher {
    /// Objects have at least this IoU.
    pub positive_iou: f32,
    /// Background has less than this IoU.
    pub negative_iou: f32,
    /// Whether the best candidates of a box match below `positive_iou` as well.
    pub best: BestCandidates,
}

impl Matcher {
    /// One match per candidate; all background if there is no ground truth.
    pub fn assign(&self, gt_boxes: &[BBox], candidates: &[BBox]) -> Vec<Match> {
        let mut best = vec![Best { iou: 0.0, gt_index: 0 }; candidates.len()];
        let mut kept = Vec::new();
        let areas: Vec<f32> = candidates.iter().map(BBox::area).collect();
        for (gt_index, gt_box) in gt_boxes.iter().enumerate() {
            let ties = update_best(&mut best, gt_index, gt_box, candidates.iter().zip(&areas));
            match self.best {
                BestCandidates::ByThreshold => {}
                BestCandidates::KeptOrAll if ties.indices.is_empty() => {
                    kept.extend((0..candidates.len()).map(|at| (at, None)))
                }
                BestCandidates::Kept | BestCandidates::KeptOrAll => {
                    kept.extend(ties.indices.iter().map(|&at| (at, None)))
                }
                BestCandidates::Claimed { min_iou } if ties.iou < min_iou => {}
                BestCandidates::Claimed { .. } => kept.extend(ties.indices.iter().map(|&at| (at, Some(gt_index)))),
            }
        }
        let mut matches: Vec<Match> = best.iter().map(|best| self.judge(*best, gt_boxes.is_empty())).collect();
        for (candidate, claimed_by) in kept {
            matches[candidate] = Match::Object(claimed_by.unwrap_or(best[candidate].gt_index));
        }
        matches
    }

    fn judge(&self, best: Best, is_empty: bool) -> Match {
        if is_empty || best.iou < self.negative_iou {
            Match::Background
        } else if best.iou < self.positive_iou {
            Match::Ignored
        } else {
            Match::Object(best.gt_index)
        }
    }
}

/// A candidate's highest IoU and the box that it has it with.
#[derive(Clone, Copy)]
struct Best {
    iou: f32,
    gt_index: usize,
}

/// The candidates that a box has its highest IoU with.
struct Ties {
    iou: f32,
    indices: Vec<usize>,
}

/// Compares one ground-truth box with all candidates; returns the candidates that share its highest IoU.
fn update_best<'a>(
    best: &mut [Best],
    gt_index: usize,
    gt_box: &BBox,
    candidates: impl Iterator<Item = (&'a BBox, &'a f32)>,
) -> Ties {
    let gt_area = gt_box.area();
    let mut ties = Ties { iou: 0.0, indices: Vec::new() };
    for (index, (candidate, area)) in candidates.enumerate() {
        let width = gt_box.x2.min(candidate.x2) - gt_box.x1.max(candidate.x1);
        let height = gt_box.y2.min(candidate.y2) - gt_box.y1.max(candidate.y1);
        // Nearly all pairs end here.
        if width <= 0.0 || height <= 0.0 {
            continue;
        }
        let intersection = width * height;
        let iou = intersection / (gt_area + area - intersection);
        if iou > best[index].iou {
            best[index] = Best { iou, gt_index };
        }
        if iou > ties.iou {
            ties.iou = iou;
            ties.indices.clear();
        }
        if iou == ties.iou {
            ties.indices.push(index);
        }
    }
    ties
}

#[cfg(test)]
mod tests {
    use super::*;

    const RPN: Matcher = Matcher { positive_iou: 0.7, negative_iou: 0.3, best: BestCandidates::Kept };

    /// A box of height 1 between two abscissas: its IoU is that of intervals.
    fn interval(x1: f32, x2: f32) -> BBox {
        BBox::new(x1, 0.0, x2, 1.0)
    }

    #[test]
    fn thresholds_split_object_ignored_background() {
        let candidates = [interval(0.0, 10.0), interval(0.0, 8.0), interval(0.0, 5.0), interval(0.0, 2.0)];
        assert_eq!(
            RPN.assign(&[interval(0.0, 10.0)], &candidates),
            [Match::Object(0), Match::Object(0), Match::Ignored, Match::Background]
        );
    }

    #[test]
    fn thresholds_themselves_belong_to_the_upper_side() {
        let matcher = Matcher { positive_iou: 0.5, negative_iou: 0.25, best: BestCandidates::ByThreshold };
        let candidates = [interval(0.0, 4.0), interval(0.0, 2.0)];
        assert_eq!(matcher.assign(&[interval(0.0, 8.0)], &candidates), [Match::Object(0), Match::Ignored]);
    }

    #[test]
    fn every_tied_best_candidate_is_kept_below_the_threshold() {
        let candidates = [interval(0.0, 2.0), interval(8.0, 10.0), interval(2.0, 3.0), interval(20.0, 22.0)];
        assert_eq!(
            RPN.assign(&[interval(0.0, 10.0)], &candidates),
            [Match::Object(0), Match::Object(0), Match::Background, Match::Background]
        );
    }

    #[test]
    fn a_kept_candidate_takes_the_box_it_overlaps_most() {
        // The best candidate of box 1 overlaps box 0 more: it stands for box 0, as in torchvision.
        let gt_boxes = [interval(0.0, 10.0), interval(9.0, 29.0)];
        assert_eq!(RPN.assign(&gt_boxes, &[interval(0.0, 12.0)]), [Match::Object(0)]);
    }

    #[test]
    fn the_first_box_wins_a_tie() {
        let gt_box = interval(0.0, 10.0);
        assert_eq!(RPN.assign(&[gt_box, gt_box], &[gt_box]), [Match::Object(0)]);
    }

    #[test]
    fn a_box_that_touches_nothing_claims_nothing() {
        assert_eq!(RPN.assign(&[interval(50.0, 60.0)], &[interval(0.0, 10.0)]), [Match::Background]);
    }

    #[test]
    fn without_ground_truth_all_is_background() {
        let matcher = Matcher { positive_iou: 0.0, negative_iou: 0.0, best: BestCandidates::Kept };
        assert_eq!(matcher.assign(&[], &[interval(0.0, 1.0)]), [Match::Background]);
    }
}
