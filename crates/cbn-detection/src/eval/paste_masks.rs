use std::ops::Range;

use crate::structures::{BBox, ImageSize, InstanceMask, SoftMask};

/// Probability from which on a pixel belongs to the object.
const THRESHOLD: f32 = 0.5;

/// Stretches a mask over its box and keeps the pixels with a probability of at least one half.
///
/// Bilinear between cell centres, 0 beyond the grid, taken at pixel centres: `grid_sample` with `align_corners=False`, as
/// detectron2 v0.6 `layers/mask_ops.py`. Only pixels of the box are looked at: outside it, at least half of the weight
/// falls beyond the grid.
///
/// # Panics
///
/// If the mask does not hold `side * side` probabilities.
pub fn paste_mask(mask: &SoftMask, bbox: &BBox, image: ImageSize) -> InstanceMask {
    assert_eq!(mask.probabilities.len(), mask.side * mask.side, "a mask has one probability per cell");
    let (columns, x_taps) = taps(bbox.x1, bbox.x2, mask.side, image.width);
    let (rows, y_taps) = taps(bbox.y1, bbox.y2, mask.side, image.height);
    let line = |cell: usize| &mask.probabilities[cell * mask.side..][..mask.side];
    let mut pixels = Vec::with_capacity(rows.len() * columns.len());
    let mut blended = vec![0.0; mask.side];
    for y in &y_taps {
        let (above, below) = (line(y.cells[0]), line(y.cells[1]));
        for (cell, value) in blended.iter_mut().enumerate() {
            *value = y.weights[0] * above[cell] + y.weights[1] * below[cell];
        }
        pixels.extend(x_taps.iter().map(|x| {
            let probability = x.weights[0] * blended[x.cells[0]] + x.weights[1] * blended[x.cells[1]];
            u8::from(probability >= THRESHOLD)
        }));
    }
    let window = ImageSize::new(rows.len(), columns.len());
    InstanceMask::from_window(image, (columns.start, rows.start), window, &pixels)
}

/// The two cells between which a pixel centre lies, and their weights.
struct Tap {
    cells: [usize; 2],
    weights: [f32; 2],
}

/// The pixels that the box covers along one axis of `length` pixels, and where each falls on a grid of `side` cells.
fn taps(low: f32, high: f32, side: usize, length: usize) -> (Range<usize>, Vec<Tap>) {
    let start = (low.floor().max(0.0) as usize).min(length);
    let end = (high.ceil().max(0.0) as usize).clamp(start, length);
    let last = side as isize - 1;
    let taps = (start..end)
        .map(|pixel| {
            let at = (pixel as f32 + 0.5 - low) / (high - low) * side as f32 - 0.5;
            let (first, fraction) = (at.floor() as isize, at - at.floor());
            // A cell beyond the grid gets no weight; which cell it is clamped to does not matter.
            let weight = |cell: isize, weight: f32| if (0..=last).contains(&cell) { weight } else { 0.0 };
            Tap {
                cells: [first, first + 1].map(|cell| cell.clamp(0, last) as usize),
                weights: [weight(first, 1.0 - fraction), weight(first + 1, fraction)],
            }
        })
        .collect();
    (start..end, taps)
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
}
