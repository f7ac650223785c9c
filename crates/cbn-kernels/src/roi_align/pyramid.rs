//! ROI Align on a pyramid: each box is cropped from the level that suits it, straight to its place among the crops.

use rayon::prelude::*;

use super::{Roi, RoiAlign};
use crate::isa::{Isa, Kernels};
use crate::map_shape::MapShape;
use crate::out::{self, Out};

/// Crops that a thread takes at a time: their costs differ, and whoever has the costly ones last keeps the others waiting.
const CROPS_PER_TASK: usize = 4;

/// A level of a pyramid, and how boxes are cropped from it: as many bins on every level.
#[derive(Clone, Copy, Debug)]
pub struct PyramidLevel<'a> {
    /// How boxes are cropped.
    pub align: RoiAlign,
    /// The sizes of the map.
    pub map: MapShape,
    /// The map, `[B, H, W, C]`.
    pub x: &'a [f32],
}

/// A box, and the level that it is cropped from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PyramidRoi {
    /// Index of the level.
    pub level: usize,
    /// The box.
    pub roi: Roi,
}

/// Crops each box from its level: `[N, output height, output width, C]`, in the order of the boxes.
///
/// # Panics
///
/// If the levels differ in bins or channels, a length does not fit, or a box is on a level or an image that is not there.
pub fn pyramid_roi_align(levels: &[PyramidLevel<'_>], rois: &[PyramidRoi]) -> Vec<f32> {
    let Some(first) = levels.first() else {
        assert!(rois.is_empty(), "there is a level to crop from");
        return Vec::new();
    };
    for (i, level) in levels.iter().enumerate() {
        let crop = |level: &PyramidLevel<'_>| (level.align.output, level.map.channels);
        assert_eq!(crop(level), crop(first), "bins and channels of level {i} are those of the first");
        level.align.check(&level.map, level.x.len(), of_level(rois, i).map(|(_, roi)| roi));
    }
    assert!(rois.iter().all(|roi| roi.level < levels.len()), "every box is on one of {} levels", levels.len());
    let kernels = Kernels::new(Isa::detect());
    let crop_len = first.align.output_len(&first.map, 1);
    let write = |y: &mut Out| {
        let crops = y.par_chunks_mut(crop_len.max(1)).zip(rois).with_max_len(CROPS_PER_TASK);
        crops.for_each(|(y, PyramidRoi { level, roi })| {
            let PyramidLevel { align, map, x } = &levels[*level];
            align.crop(kernels, map, x, roi, y);
        });
    };
    // SAFETY: there is a box for each crop, of which every bin is written.
    unsafe { out::filled(rois.len() * crop_len, write) }
}

/// The gradient with regard to the map of one level, from that with regard to all crops.
///
/// # Panics
///
/// If a length does not fit, or a box of the level is on an image that is not there.
pub fn pyramid_roi_align_backward(
    align: &RoiAlign,
    map: &MapShape,
    level: usize,
    rois: &[PyramidRoi],
    grad_y: &[f32],
) -> Vec<f32> {
    assert_eq!(grad_y.len(), align.output_len(map, rois.len()), "length of {} crops of {map:?}", rois.len());
    let mut grad_x = vec![0.0; map.len()];
    align.scatter(map, grad_y, of_level(rois, level).collect(), &mut grad_x);
    grad_x
}

/// The boxes of a level, each with its number among all.
fn of_level(rois: &[PyramidRoi], level: usize) -> impl Iterator<Item = (usize, &Roi)> {
    rois.iter().enumerate().filter(move |(_, roi)| roi.level == level).map(|(number, roi)| (number, &roi.roi))
}
