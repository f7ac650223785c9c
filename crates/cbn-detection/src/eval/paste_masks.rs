use std::ops::Range;

use cbn_kernels::MaskSampling;

use crate::data::MaskPaste;
use crate::structures::{BBox, ImageSize, InstanceMask, SoftMask};

/// Probability from which on a pixel belongs to the object.
const THRESHOLD: f32 = 0.5;

/// Stretches a mask over its box and keeps the pixels with a probability of at least one half; bilinear between cell centres.
///
/// # Panics
///
/// If the mask does not hold `side * side` probabilities.
pub fn paste_mask(mask: &SoftMask, bbox: &BBox, image: ImageSize, paste: MaskPaste) -> InstanceMask {
    match paste {
        // Only pixels of the box are looked at: outside it, at least half of the weight falls beyond the grid.
        MaskPaste::PixelCentres => paste_sampled(mask, bbox, bbox, image, MaskSampling::Continuous),
        MaskPaste::PaddedWholePixels => {
            // A border of one cell, and the pixel that rounding may add.
            let border = |side: f32| side / mask.side as f32 + 1.0;
            let (x, y) = (border(bbox.width()), border(bbox.height()));
            let reached = BBox::new(bbox.x1 - x, bbox.y1 - y, bbox.x2 + x, bbox.y2 + y);
            paste_sampled(mask, bbox, &reached, image, MaskSampling::WholePixels)
        }
        MaskPaste::WholePixels => paste_whole_pixels(mask, bbox, image),
    }
}

fn paste_whole_pixels(mask: &SoftMask, bbox: &BBox, image: ImageSize) -> InstanceMask {
    // First and last pixel, cut towards zero as NumPy's `astype(int32)`.
    let span = |low: f32, high: f32| (low as usize, (high - 1.0) as usize);
    let ((left, right), (top, bottom)) = (span(bbox.x1, bbox.x2), span(bbox.y1, bbox.y2));
    let [height, width] = [(top, bottom), (left, right)].map(|(first, last)| (last + 1).saturating_sub(first).max(1));
    let stretched = cbn_kernels::resize_bilinear_f32(&mask.probabilities, [mask.side; 2], 1, [height, width]);
    let (left, top) = (left.min(image.width), top.min(image.height));
    let window = ImageSize::new(height.min(image.height - top), width.min(image.width - left));
    let rows = stretched.chunks_exact(width).take(window.height);
    let pixels: Vec<u8> =
        rows.flat_map(|row| row[..window.width].iter().map(|&probability| u8::from(probability > THRESHOLD))).collect();
    InstanceMask::from_window(image, (left, top), window, &pixels)
}

/// Looks at the pixels of `reached` only.
fn paste_sampled(
    mask: &SoftMask,
    bbox: &BBox,
    reached: &BBox,
    image: ImageSize,
    sampling: MaskSampling,
) -> InstanceMask {
    let columns = covered(reached.x1, reached.x2, image.width);
    let rows = covered(reached.y1, reached.y2, image.height);
    let window = ImageSize::new(rows.len(), columns.len());
    let (left, top) = (columns.start as f32, rows.start as f32);
    let pixels = cbn_kernels::paste_mask(
        &mask.probabilities,
        mask.side,
        [bbox.x1 - left, bbox.y1 - top, bbox.x2 - left, bbox.y2 - top],
        [window.height, window.width],
        THRESHOLD,
        sampling,
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
        let pasted = paste_mask(&mask, &BBox::new(1.0, 2.0, 3.0, 4.0), ImageSize::new(6, 5), MaskPaste::PixelCentres);
        let mut expected = vec![0; 30];
        (expected[2 * 5 + 1], expected[3 * 5 + 1]) = (1, 1);
        assert_eq!(pasted.to_full(), expected);
    }

    #[test]
    fn doubling_blends_neighbouring_cells() {
        let mask = SoftMask { side: 2, probabilities: vec![1.0, 0.0, 1.0, 0.0] };
        let pasted = paste_mask(&mask, &BBox::new(0.0, 0.0, 4.0, 4.0), ImageSize::new(4, 4), MaskPaste::PixelCentres);
        // Horizontally 0.75, 0.75, 0.25, 0; vertically the outer rows lose a quarter to the zeros beyond the grid.
        assert_eq!(pasted.to_full(), [1, 1, 0, 0].repeat(4));
    }

    #[test]
    fn a_box_beyond_the_image_is_cut() {
        let mask = SoftMask { side: 4, probabilities: vec![1.0; 16] };
        let pasted = paste_mask(&mask, &BBox::new(-4.0, 1.0, 4.0, 9.0), ImageSize::new(5, 10), MaskPaste::PixelCentres);
        assert_eq!((pasted.left, pasted.top, pasted.width, pasted.height), (0, 1, 4, 4));
    }

    #[test]
    fn a_mask_below_one_half_is_empty() {
        let mask = SoftMask { side: 4, probabilities: vec![0.49; 16] };
        assert_eq!(
            paste_mask(&mask, &BBox::new(0.0, 0.0, 8.0, 8.0), ImageSize::new(9, 9), MaskPaste::PixelCentres).area_px(),
            0
        );
    }

    #[test]
    fn a_box_outside_the_image_gives_an_empty_mask() {
        let mask = SoftMask { side: 4, probabilities: vec![1.0; 16] };
        assert_eq!(
            paste_mask(&mask, &BBox::new(20.0, 2.0, 30.0, 8.0), ImageSize::new(9, 9), MaskPaste::PixelCentres)
                .area_px(),
            0
        );
    }
}
