//! Non-maximum suppression of boxes, as `torchvision.ops.nms` 0.26.

use crate::isa::{Isa, Kernels, Target, per_isa};

/// The boxes that remain when each box, from the highest score down, removes those after it whose IoU with it is above
/// `iou_threshold`.
///
/// Boxes are `x1 y1 x2 y2`. The IoU is computed in `f32` and compared in `f64`, as torchvision does: an IoU of 3 / 10 is above a
/// threshold of 0.3. Returns indices in the order of the scores; of equal scores the lower index comes first.
///
/// # Panics
///
/// If there is not one score per box.
pub fn nms(boxes: &[[f32; 4]], scores: &[f32], iou_threshold: f64) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "one score per box");
    let kernels = Kernels::new(Isa::detect());
    let order = by_score(scores);
    let sorted = Columns::new(order.iter().map(|&i| boxes[i]));
    let largest_kept = round_down(iou_threshold);
    let mut is_suppressed = vec![0_u32; order.len()];
    let mut kept = Vec::new();
    for (rank, &index) in order.iter().enumerate() {
        if is_suppressed[rank] == 0 {
            kept.push(index);
            suppress(kernels, &sorted, rank, largest_kept, &mut is_suppressed);
        }
    }
    kept
}

/// The definition of [`nms`]: one pair at a time.
pub fn nms_reference(boxes: &[[f32; 4]], scores: &[f32], iou_threshold: f64) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::new();
    for candidate in by_score(scores) {
        let is_suppressed = |&better: &usize| f64::from(iou(boxes[better], boxes[candidate])) > iou_threshold;
        if !kept.iter().any(is_suppressed) {
            kept.push(candidate);
        }
    }
    kept
}

/// Intersection over union; not a number for two empty boxes.
fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |[x1, y1, x2, y2]: [f32; 4]| (x2 - x1) * (y2 - y1);
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let intersection = width * height;
    intersection / (area(a) + area(b) - intersection)
}

/// The largest `f32` that is not above `value`: the same values of `f32` are above both.
fn round_down(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) > value { nearest.next_down() } else { nearest }
}

fn by_score(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// Boxes by coordinate, so that one box is compared with many at a time.
#[derive(Default)]
struct Columns {
    x1: Vec<f32>,
    y1: Vec<f32>,
    x2: Vec<f32>,
    y2: Vec<f32>,
}

impl Columns {
    fn new(boxes: impl Iterator<Item = [f32; 4]>) -> Self {
        let mut columns = Self::default();
        for [x1, y1, x2, y2] in boxes {
            columns.x1.push(x1);
            columns.y1.push(y1);
            columns.x2.push(x2);
            columns.y2.push(y2);
        }
        columns
    }
}

per_isa! {
    /// Marks the boxes after `rank` that overlap it too much.
    fn suppress(sorted: &Columns, rank: usize, largest_kept: f32, is_suppressed: &mut [u32]) = suppress_body
}

#[inline(always)]
fn suppress_body<T: Target>(sorted: &Columns, rank: usize, largest_kept: f32, is_suppressed: &mut [u32]) {
    let best = [sorted.x1[rank], sorted.y1[rank], sorted.x2[rank], sorted.y2[rank]];
    let rest = rank + 1..is_suppressed.len();
    let lefts = sorted.x1[rest.clone()].iter().zip(&sorted.y1[rest.clone()]);
    let rights = sorted.x2[rest.clone()].iter().zip(&sorted.y2[rest.clone()]);
    for (((x1, y1), (x2, y2)), is_suppressed) in lefts.zip(rights).zip(&mut is_suppressed[rest]) {
        *is_suppressed |= u32::from(iou(best, [*x1, *y1, *x2, *y2]) > largest_kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_boxes_of_lower_score_go() {
        let boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]];
        assert_eq!(nms(&boxes, &[0.5, 0.9, 0.7], 0.5), [1, 2]);
    }

    #[test]
    fn the_threshold_itself_is_kept() {
        // Intersection 50, union 100.
        let boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]];
        assert_eq!(nms(&boxes, &[0.9, 0.8], 0.5), [0, 1]);
        assert_eq!(nms(&boxes, &[0.9, 0.8], 0.49), [0]);
    }

    #[test]
    fn of_equal_scores_the_first_comes_first() {
        let boxes = [[0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0], [0.0, 0.0, 1.0, 1.0]];
        assert_eq!(nms(&boxes, &[0.5; 3], 0.5), [0, 1]);
    }

    #[test]
    fn no_boxes_and_empty_boxes_work() {
        assert!(nms(&[], &[], 0.5).is_empty());
        assert_eq!(nms(&[[1.0; 4], [1.0; 4]], &[0.1, 0.2], 0.5), [1, 0]);
    }

    #[test]
    fn many_boxes_agree_with_the_definition() {
        let at = |i: usize, by: usize, to: usize| (i * by % to) as f32;
        let boxes: Vec<[f32; 4]> = (0..500)
            .map(|i| {
                let (x, y) = (at(i, 7919, 101), at(i, 104_729, 97));
                [x, y, x + 5.0 + at(i, 31, 23), y + 5.0 + at(i, 37, 19)]
            })
            .collect();
        let scores: Vec<f32> = (0..500).map(|i| at(i, 7919, 251)).collect();
        for threshold in [0.1, 0.3, 0.5, 0.7] {
            assert_eq!(nms(&boxes, &scores, threshold), nms_reference(&boxes, &scores, threshold));
        }
    }
}
