use burn::tensor::Tensor;
use cbn::{
    FeatureMap,
    ops::{Roi, RoiAlignConfig, roi_align},
};

use crate::{
    model::{config::RoiPoolConfig, host},
    structures::{BBox, Pyramid},
};

/// Levels that rois are pooled from: P2 to P5.
const NUM_ROI_LEVELS: usize = 4;

/// A roi of this side in pixels (an ImageNet image) belongs on P4 (FPN paper, equation 1).
const CANONICAL_SIDE_PX: f32 = 224.0;

/// Features under rois, each roi from the level that suits its size.
///
/// # Shapes
///
/// - output: `[N, side, side, C]`, in the order of `rois`
///
/// # Panics
///
/// If there are no rois.
pub fn pool_rois(pyramid: &Pyramid, rois: &[Roi], config: &RoiPoolConfig) -> FeatureMap {
    assert!(!rois.is_empty(), "there is a roi to pool");
    let mut members = vec![Vec::new(); NUM_ROI_LEVELS];
    for (index, roi) in rois.iter().enumerate() {
        members[level_of(&BBox::new(roi.x1, roi.y1, roi.x2, roi.y2))].push(index);
    }
    let mut pooled = Vec::new();
    for (level, members) in members.iter().enumerate().filter(|(_, members)| !members.is_empty()) {
        let level_rois: Vec<Roi> = members.iter().map(|&index| rois[index]).collect();
        let level_config = RoiAlignConfig {
            output: [config.side; 2],
            sampling_ratio: config.sampling_ratio,
            spatial_scale: 1.0 / pyramid.strides[level] as f32,
            aligned: config.aligned,
        };
        pooled.push(roi_align(&pyramid.levels[level], &level_rois, &level_config).into_nhwc());
    }
    if pooled.len() == 1 {
        return FeatureMap::from_nhwc(pooled.remove(0));
    }
    let order = members.concat();
    let mut position_of = vec![0; order.len()];
    for (position, &index) in order.iter().enumerate() {
        position_of[index] = position;
    }
    let by_level = Tensor::cat(pooled, 0);
    let device = by_level.device();
    FeatureMap::from_nhwc(by_level.select(0, host::indices(&position_of, &device)))
}

/// `floor(4 + log2(sqrt(area) / 224))`, kept within P2 to P5, counted from P2.
fn level_of(bbox: &BBox) -> usize {
    // A side of exactly 224 must not fall to P3 by rounding (torchvision `LevelMapper`, eps 1e-6).
    let level = (4.0 + (bbox.area().sqrt() / CANONICAL_SIDE_PX).log2() + 1e-6).floor();
    // `as` takes the logarithm of an empty box, minus infinity, to 0.
    (level.clamp(2.0, 5.0) - 2.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_rois_come_from_coarser_levels() {
        let levels = [0.0, 20.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 2000.0]
            .map(|side| level_of(&BBox::new(5.0, 5.0, 5.0 + side, 5.0 + side)));
        assert_eq!(levels, [0, 0, 0, 1, 1, 2, 2, 3, 3]);
    }
}
