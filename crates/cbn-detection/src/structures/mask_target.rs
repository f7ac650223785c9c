use serde::{Deserialize, Serialize};

use super::instance_mask::AxisWeights;
use super::{BBox, InstanceMask};

/// How an object's pixels under a box become the M x M cells that the mask head learns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskTarget {
    /// ROI Align with pixel centres at half coordinates, rounded to 0 or 1 (detectron2 v0.6 `BitMasks.crop_and_resize`).
    #[default]
    Rounded,
    /// ROI Align with pixel centres at whole coordinates, not rounded (torchvision 0.26 `project_masks_on_boxes`).
    Interpolated,
    /// The whole pixels of the box, cut off to integers, resized bilinearly on bytes as OpenCV does: 0 or 1
    /// (mmdetection 0.6 `mask_target_single`). The box is a released one, kept as the area that its pixels cover.
    WholePixels,
}

impl MaskTarget {
    /// `side * side` cells between 0 and 1, row by row.
    pub fn cells(self, mask: &InstanceMask, bbox: &BBox, side: usize) -> Vec<f32> {
        match self {
            Self::Rounded => mask.crop_and_resize(bbox, side),
            Self::Interpolated => interpolated(mask, bbox, side),
            Self::WholePixels => whole_pixels(mask, bbox, side),
        }
    }
}

fn interpolated(mask: &InstanceMask, bbox: &BBox, side: usize) -> Vec<f32> {
    // Without the shift of half a pixel that `AxisWeights` makes; torchvision takes at least one pixel.
    let axis =
        |low: f32, high: f32, length| AxisWeights::of_cells(low + 0.5, low + (high - low).max(1.0) + 0.5, side, length);
    let rows = axis(bbox.y1, bbox.y2, mask.image.height);
    let columns = axis(bbox.x1, bbox.x2, mask.image.width);
    mask.cell_means(&rows, &columns).into_iter().map(|mean| mean as f32).collect()
}

fn whole_pixels(mask: &InstanceMask, bbox: &BBox, side: usize) -> Vec<f32> {
    // The last pixel is one before the edge; casting cuts towards zero, as NumPy's `astype(int)`.
    let span = |low: f32, high: f32, length: usize| {
        let (first, last) = (low as i64, (high - 1.0) as i64);
        let first = first.clamp(0, length as i64 - 1) as usize;
        first..(first + (last - first as i64 + 1).max(1) as usize).min(length)
    };
    let rows = span(bbox.y1, bbox.y2, mask.image.height);
    let columns = span(bbox.x1, bbox.x2, mask.image.width);
    let mut crop = Vec::with_capacity(rows.len() * columns.len());
    for row in rows.clone() {
        crop.extend(columns.clone().map(|column| mask.bit(row, column)));
    }
    let resized = cbn_kernels::resize_bilinear_u8(&crop, [rows.len(), columns.len()], 1, [side; 2]);
    resized.into_iter().map(f32::from).collect()
}
