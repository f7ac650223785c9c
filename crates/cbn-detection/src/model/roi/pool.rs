use cbn::{
    FeatureMap,
    ops::{PyramidRoi, Roi, RoiAlignConfig, pyramid_roi_align},
};

use crate::{
    model::config::{RoiPoolConfig, RoiRule},
    structures::{BBox, Pyramid},
};

/// A roi of this side in pixels (an ImageNet image) belongs on P4 (FPN paper, equation 1).
const CANONICAL_SIDE_PX: f32 = 224.0;

/// Regions of up to twice this side in pixels belong on P2 (mmdetection 0.6 `finest_scale`).
const FINEST_SIDE_PX: f32 = 56.0;

/// Features under rois, each roi from the level of P2 to P5 that suits its size.
///
/// # Shapes
///
/// - output: `[N, side, side, C]`, in the order of `rois`
///
/// # Panics
///
/// If there are no rois.
pub fn pool_rois(pyramid: &Pyramid, rois: &[Roi], config: &RoiPoolConfig) -> FeatureMap {
    let rois: Vec<PyramidRoi> = rois.iter().map(|&roi| on_level(roi, pyramid, config)).collect();
    let aligns = std::array::from_fn(|level| RoiAlignConfig {
        output: [config.side; 2],
        sampling_ratio: config.sampling_ratio,
        spatial_scale: 1.0 / pyramid.strides[level] as f32,
        aligned: config.aligned || config.rule == RoiRule::Released,
    });
    pyramid_roi_align(std::array::from_fn(|level| &pyramid.levels[level]), &rois, aligns)
}

/// The region where ROI Align looks for it.
fn on_level(roi: Roi, pyramid: &Pyramid, config: &RoiPoolConfig) -> PyramidRoi {
    let side = BBox::new(roi.x1, roi.y1, roi.x2, roi.y2).area().sqrt();
    match config.rule {
        RoiRule::Torchvision => PyramidRoi { level: level_of(side), roi },
        RoiRule::Released => {
            let level = released_level_of(side);
            // Unaligned ROI Align widens a region to one cell; aligned ROI Align does not, but subtracts half a cell.
            let half_cell = if config.aligned { 0.0 } else { 0.5 * pyramid.strides[level] as f32 };
            let Roi { batch_index, x1, y1, x2, y2 } = roi;
            let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(|at| at + half_cell);
            PyramidRoi { level, roi: Roi { batch_index, x1, y1, x2, y2 } }
        }
    }
}

/// `floor(log2(side / 56 + 1e-6))`, kept within P2 to P5, counted from P2 (mmdetection 0.6 `SingleRoIExtractor.map_roi_levels`).
fn released_level_of(side: f32) -> usize {
    (side / FINEST_SIDE_PX + 1e-6).log2().floor().clamp(0.0, 3.0) as usize
}

/// `floor(4 + log2(sqrt(area) / 224))`, kept within P2 to P5, counted from P2.
fn level_of(side: f32) -> usize {
    // A side of exactly 224 must not fall to P3 by rounding (torchvision `LevelMapper`, eps 1e-6).
    let level = (4.0 + (side / CANONICAL_SIDE_PX).log2() + 1e-6).floor();
    // `as` takes the logarithm of an empty box, minus infinity, to 0.
    (level.clamp(2.0, 5.0) - 2.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_rois_come_from_coarser_levels() {
        let levels = [0.0, 20.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 2000.0]
            .map(|side| [level_of(side), released_level_of(side)]);
        assert_eq!(levels, [0, 0, 0, 1, 1, 2, 2, 3, 3].map(|level| [level; 2]));
    }
}
