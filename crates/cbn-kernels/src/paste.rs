//! Pastes the soft mask of a box, M x M probabilities, into a bitmap of its image.
//!
//! Both conventions in use are bilinear and separable: per output line two mask lines and their weights.

use crate::isa::{Isa, Kernels, Target, per_isa};

/// Where a mask's pixels lie in its box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskSampling {
    /// The M pixels tile the box exactly; an image pixel samples at its centre, zero beyond the mask. As detectron2's
    /// `paste_masks_in_image`.
    Continuous,
    /// The mask gets a border of zeros, the enlarged box is cut to whole pixels, and the mask is resized to it. As torchvision's
    /// `paste_masks_in_image` (0.26).
    WholePixels,
}

/// The bitmap, `height * width`, row by row: 1 where the pasted probability is at least `threshold`, else 0.
///
/// `mask` is `side * side` probabilities, `bbox` is `x1 y1 x2 y2` in pixels of the image `[height, width]`. Pixels that the
/// mask does not reach are 0, whatever the threshold.
///
/// # Panics
///
/// If the mask does not have `side * side` values.
pub fn paste_mask(
    mask: &[f32],
    side: usize,
    bbox: [f32; 4],
    [height, width]: [usize; 2],
    threshold: f32,
    sampling: MaskSampling,
) -> Vec<u8> {
    assert_eq!(mask.len(), side * side, "the mask is square");
    let mut bitmap = vec![0; height * width];
    let (first_row, rows) = sampling.samples(bbox[1], bbox[3], side, height);
    let (first_column, columns) = sampling.samples(bbox[0], bbox[2], side, width);
    if rows.is_empty() || columns.is_empty() {
        return bitmap;
    }
    let kernels = Kernels::new(Isa::detect());
    // Every mask line is stretched once to the image's columns; the line after the last stays zero, for samples outside.
    let mut stretched = vec![0.0; (side + 1) * columns.len()];
    for (line, mask) in stretched.chunks_exact_mut(columns.len()).zip(mask.chunks_exact(side)) {
        stretch(mask, &columns, line);
    }
    for (bitmap, sample) in bitmap.chunks_exact_mut(width).skip(first_row).zip(&rows) {
        let line = |at: Option<usize>| {
            let at = at.unwrap_or(side);
            &stretched[at * columns.len()..(at + 1) * columns.len()]
        };
        let bitmap = &mut bitmap[first_column..first_column + columns.len()];
        threshold_row(kernels, line(sample.low), line(sample.high), sample.fraction, threshold, bitmap);
    }
    bitmap
}

/// What an image line reads of the mask: `low * (1 - fraction) + high * fraction`; lines outside the mask are zero.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    low: Option<usize>,
    high: Option<usize>,
    fraction: f32,
}

impl Sample {
    fn new(at: f32, side: usize) -> Self {
        let low = at.floor();
        let line = |at: f32| (at >= 0.0 && at < side as f32).then_some(at as usize);
        Self { low: line(low), high: line(low + 1.0), fraction: at - low }
    }
}

impl MaskSampling {
    /// The first image line that the mask reaches, and the samples of all that it does, along one axis.
    fn samples(self, start: f32, end: f32, side: usize, lines: usize) -> (usize, Vec<Sample>) {
        match self {
            Self::Continuous => continuous(start, end, side, lines),
            Self::WholePixels => whole_pixels(start, end, side, lines),
        }
    }
}

fn continuous(start: f32, end: f32, side: usize, lines: usize) -> (usize, Vec<Sample>) {
    let scale = side as f32 / (end - start);
    let position = |line: usize| (line as f32 + 0.5 - start) * scale - 0.5;
    let is_reached = |line: &usize| position(*line) > -1.0 && position(*line) < side as f32;
    let first = (0..lines).find(is_reached).unwrap_or(0);
    let samples = (first..lines).take_while(is_reached).map(|line| Sample::new(position(line), side));
    (first, samples.collect())
}

fn whole_pixels(start: f32, end: f32, side: usize, lines: usize) -> (usize, Vec<Sample>) {
    let padded = side + 2;
    let enlarge = padded as f32 / side as f32;
    let (half, center) = ((end - start) * 0.5 * enlarge, (end + start) * 0.5);
    let (start, end) = ((center - half) as i64, (center + half) as i64);
    let size = (end - start + 1).max(1);
    let scale = padded as f32 / size as f32;
    let clip = |line: i64| line.clamp(0, lines as i64);
    let samples = (clip(start)..clip(start + size)).map(|line| {
        let at = (((line - start) as f32 + 0.5) * scale - 0.5).max(0.0);
        // In the padded mask; one less in the mask. Beyond the last padded line the last repeats, which is zero either way.
        Sample::new(at - 1.0, side)
    });
    (clip(start) as usize, samples.collect())
}

fn stretch(mask: &[f32], columns: &[Sample], out: &mut [f32]) {
    let value = |at: Option<usize>| at.map_or(0.0, |at| mask[at]);
    for (out, sample) in out.iter_mut().zip(columns) {
        *out = value(sample.low) * (1.0 - sample.fraction) + value(sample.high) * sample.fraction;
    }
}

per_isa! {
    fn threshold_row(low: &[f32], high: &[f32], fraction: f32, threshold: f32, bitmap: &mut [u8]) = threshold_row_body
}

#[inline(always)]
fn threshold_row_body<T: Target>(low: &[f32], high: &[f32], fraction: f32, threshold: f32, bitmap: &mut [u8]) {
    for ((low, high), pixel) in low.iter().zip(high).zip(bitmap) {
        *pixel = u8::from(low * (1.0 - fraction) + high * fraction >= threshold);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mask_covers_its_box() {
        let bitmap = paste_mask(&[1.0; 16], 4, [1.0, 2.0, 5.0, 4.0], [6, 7], 0.5, MaskSampling::Continuous);
        let expected = (0..42).map(|i| u8::from((2..4).contains(&(i / 7)) && (1..5).contains(&(i % 7))));
        assert_eq!(bitmap, expected.collect::<Vec<u8>>());
    }

    #[test]
    fn pixels_outside_the_box_are_zero_for_any_threshold() {
        let bitmap = paste_mask(&[0.0], 1, [1.0, 1.0, 2.0, 2.0], [4, 4], 0.0, MaskSampling::Continuous);
        assert_eq!(bitmap.iter().map(|&pixel| usize::from(pixel)).sum::<usize>(), 1);
    }

    #[test]
    fn boxes_off_the_image_and_empty_boxes_paste_nothing_but_pixels_of_the_image() {
        for sampling in [MaskSampling::Continuous, MaskSampling::WholePixels] {
            for bbox in [[-9.0, -9.0, -5.0, -5.0], [20.0, 20.0, 30.0, 30.0], [-3.0, -3.0, 20.0, 20.0], [3.0; 4]] {
                assert_eq!(paste_mask(&[1.0; 4], 2, bbox, [5, 6], 0.5, sampling).len(), 30);
            }
        }
    }
}
