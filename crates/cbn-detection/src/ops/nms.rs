use crate::structures::BBox;

/// Drops every box that overlaps a better one by more than `iou_threshold`; returns the others, best first.
pub fn nms(boxes: &[BBox], scores: &[f32], iou_threshold: f64) -> Vec<usize> {
    let edges: Vec<[f32; 4]> = boxes.iter().map(|bbox| bbox.to_array()).collect();
    cbn_kernels::nms(&edges, scores, iou_threshold)
}

/// [`nms`] among the boxes of each group (a pyramid level, a class); returns what is left of all groups, best first.
///
/// Boxes of equal score keep the order in which they are given.
pub fn nms_by_group(boxes: &[BBox], scores: &[f32], groups: &[usize], iou_threshold: f64) -> Vec<usize> {
    let num_groups = groups.iter().max().map_or(0, |last| last + 1);
    let mut members = vec![Vec::new(); num_groups];
    for (index, &group) in groups.iter().enumerate() {
        members[group].push(index);
    }
    let mut kept = Vec::new();
    for members in members.iter().filter(|members| !members.is_empty()) {
        let group_boxes: Vec<BBox> = members.iter().map(|&index| boxes[index]).collect();
        let group_scores: Vec<f32> = members.iter().map(|&index| scores[index]).collect();
        kept.extend(nms(&group_boxes, &group_scores, iou_threshold).into_iter().map(|position| members[position]));
    }
    kept.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_do_not_suppress_each_other() {
        let bbox = BBox::new(0.0, 0.0, 10.0, 10.0);
        let shifted = BBox::new(1.0, 0.0, 11.0, 10.0);
        let boxes = [bbox, bbox, shifted, shifted];
        assert_eq!(nms_by_group(&boxes, &[0.1, 0.9, 0.8, 0.7], &[0, 1, 1, 0], 0.5), [1, 3]);
        assert_eq!(nms(&boxes, &[0.1, 0.9, 0.8, 0.7], 0.5), [1]);
        assert_eq!(nms_by_group(&[], &[], &[], 0.5), [0; 0]);
    }
}
