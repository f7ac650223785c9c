use std::ops::Range;

use cbn_kernels::MaskSampling;

use crate::structures::{BBox, ImageSize, InstanceMask, SoftMask};

/// Probability from which on a pixel belongs to the object.
const THRESHOLD: f32 = 0.5;

/// Stretches a mask over its box and keeps the pixels with a probability of at least one half.
///
/// Bilinear between cell centres, 0 beyond the grid, taken at pixel centres, as detectron2 v0.6 `layers/mask_ops.py`. Only
/// pixels of the box are looked at: outside it, at least half of the weight falls beyond the grid.
///
/// # Panics
///
/// If the mask does not hold `side * side` probabilities.
pub fn paste_mask(mask: &SoftMask, bbox: &BBox, image: ImageSize) -> InstanceMask {
    let columns = covered(bbox.x1, bbox.x2, image.width);
    let rows = covered(bbox.y1, bbox.y2, image.height);
    let window = ImageSize::new(rows.len(), columns.len());
    let (left, top) = (columns.start as f32, rows.start as f32);
    let pixels = cbn_kernels::paste_mask(
        &mask.probabilities,
        mask.side,
        [bbox.x1 - left, bbox.y1 - top, bbox.x2 - left, bbox.y2 - top],
        [window.height, window.width],
        THRESHOLD,
        MaskSampling::Continuous,
    );
    InstanceMask::from_window(image, (columns.start, rows.start), window, &pixels)
}

/// Pixels of an axis of `length` that lie at least partly between `low` and `high`.
fn covered(low: f32, high: f32, length: usize) -> Range<usize> {
    let start = (low.floor().max(0.0) as usize).min(length);
    let end = (high.ceil().max(0.0) as usize).clamp(start, length);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_of_pixel_size_is_copied() {
        let mask = SoftMask { side: 2, probabilities: vec![0.9, 0.1, 0.5, 0.49] };
        let pasted = paste_mask(&mask, &BBox::new(1.0, 2.0, 3.0, 4.0), ImageSize::new(6, 5));
        let mut expected = vec![0; 30];
        (expected[2 * 5 + 1], expected[3 * 5 + 1]) = (1, 1);
        assert_eq!(pasted.to_full(), expected);
    }

    #[test]
    fn doubling_blends_neighbouring_cells() {
        let mask = SoftMask { side: 2, probabilities: vec![1.0, 0.0, 1.0, 0.0] };
        let pasted = paste_mask(&mask, &BBox::new(0.0, 0.0, 4.0, 4.0), ImageSize::new(4, 4));
        // Horizontally 0.75, 0.75, 0.25, 0; vertically the outer rows lose a quarter to the zeros beyond the grid.
        assert_eq!(pasted.to_full(), [1, 1, 0, 0].repeat(4));
    }

    #[test]
    fn a_box_beyond_the_image_is_cut() {
        let mask = SoftMask { side: 4, probabilities: vec![1.0; 16] };
        let pasted = paste_mask(&mask, &BBox::new(-4.0, 1.0, 4.0, 9.0), ImageSize::new(5, 10));
        assert_eq!((pasted.left, pasted.top, pasted.width, pasted.height), (0, 1, 4, 4));
    }

    #[test]
    fn a_mask_below_one_half_is_empty() {
        let mask = SoftMask { side: 4, probabilities: vec![0.49; 16] };
        assert_eq!(paste_mask(&mask, &BBox::new(0.0, 0.0, 8.0, 8.0), ImageSize::new(9, 9)).area_px(), 0);
    }

    #[test]
    fn a_box_outside_the_image_gives_an_empty_mask() {
        let mask = SoftMask { side: 4, probabilities: vec![1.0; 16] };
        assert_eq!(paste_mask(&mask, &BBox::new(20.0, 2.0, 30.0, 8.0), ImageSize::new(9, 9)).area_px(), 0);
    }
}
