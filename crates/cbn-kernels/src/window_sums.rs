//! What each tap of a convolution sees on average, in one pass over the input.
//!
//! Tap `(r, s)` reads the rows `oy * stride + r * dilation - padding` and the columns alike. Rows that the same taps read form
//! a class, so do columns: a 3x3 kernel of stride 1 has three of each, the border rows and all the others. The pass sums each
//! pair of classes; a tap's sum is that of its classes.

use rayon::prelude::*;

use crate::conv::ConvShape;
use crate::isa::{Isa, Kernels, Target, per_isa};

/// Ranges of rows that are summed on their own: fixed, so that the number of threads changes no bit.
const RANGES: usize = 32;

/// The mean over the output positions of the zero-padded input that each tap reads.
///
/// The result is `[groups, C / groups, kh, kw]`: a weight's inner product with its group's part is the mean of the
/// convolution's output channel.
///
/// # Panics
///
/// If `x` does not fit the shape, or there is no output position.
pub fn mean_patch(shape: &ConvShape, x: &[f32]) -> Vec<f32> {
    shape.check();
    assert_eq!(x.len(), shape.input_len(), "length of the input of {shape:?}");
    let positions = shape.batch * shape.out_height() * shape.out_width();
    assert!(positions > 0, "no output position: {shape:?}");
    let rows = Classes::new(shape.in_height, |at, tap| reads(shape, 0, shape.out_height(), at, tap), shape.kernel[0]);
    let columns = Classes::new(shape.in_width, |at, tap| reads(shape, 1, shape.out_width(), at, tap), shape.kernel[1]);
    let sums = class_sums(shape, x, &rows, &columns);

    let mut patch = vec![0.0; shape.in_channels * shape.taps()];
    for (i, mean) in patch.iter_mut().enumerate() {
        let (c, r, s) = (i / shape.taps(), i / shape.kernel[1] % shape.kernel[0], i % shape.kernel[1]);
        let mut sum = 0.0;
        for (row, _) in rows.taps.iter().enumerate().filter(|(_, taps)| taps[r]) {
            for (column, _) in columns.taps.iter().enumerate().filter(|(_, taps)| taps[s]) {
                sum += sums[(row * columns.taps.len() + column) * shape.in_channels + c];
            }
        }
        *mean = (sum / positions as f64) as f32;
    }
    patch
}

/// The definition of [`mean_patch`]: one addition at a time, in `f64`.
pub fn mean_patch_reference(shape: &ConvShape, x: &[f32]) -> Vec<f64> {
    let (out_height, out_width) = (shape.out_height(), shape.out_width());
    let mut patch = vec![0.0; shape.in_channels * shape.taps()];
    for (i, mean) in patch.iter_mut().enumerate() {
        let (c, r, s) = (i / shape.taps(), i / shape.kernel[1] % shape.kernel[0], i % shape.kernel[1]);
        for p in 0..shape.batch * out_height * out_width {
            let (image, oy, ox) = (p / (out_height * out_width), p / out_width % out_height, p % out_width);
            let y = (oy * shape.stride[0] + r * shape.dilation[0]).wrapping_sub(shape.padding[0]);
            let x_at = (ox * shape.stride[1] + s * shape.dilation[1]).wrapping_sub(shape.padding[1]);
            if y < shape.in_height && x_at < shape.in_width {
                let pixel = (image * shape.in_height + y) * shape.in_width + x_at;
                *mean += f64::from(x[pixel * shape.in_channels + c]);
            }
        }
        *mean /= (shape.batch * out_height * out_width) as f64;
    }
    patch
}

/// Whether the tap at `tap` reads the input line `at`.
fn reads(shape: &ConvShape, axis: usize, outputs: usize, at: usize, tap: usize) -> bool {
    let distance = (at + shape.padding[axis]).checked_sub(tap * shape.dilation[axis]);
    distance.is_some_and(|d| d.is_multiple_of(shape.stride[axis]) && d / shape.stride[axis] < outputs)
}

/// Lines (rows or columns) grouped by the taps that read them.
struct Classes {
    /// Class of each line; `None` if no tap reads it.
    of_line: Vec<Option<usize>>,
    /// Per class, whether each tap reads it.
    taps: Vec<Vec<bool>>,
}

impl Classes {
    fn new(lines: usize, reads: impl Fn(usize, usize) -> bool, taps: usize) -> Self {
        let mut classes = Self { of_line: Vec::with_capacity(lines), taps: Vec::new() };
        for line in 0..lines {
            let read: Vec<bool> = (0..taps).map(|tap| reads(line, tap)).collect();
            let class = read.contains(&true).then(|| {
                let known = classes.taps.iter().position(|taps| *taps == read);
                known.unwrap_or_else(|| {
                    classes.taps.push(read);
                    classes.taps.len() - 1
                })
            });
            classes.of_line.push(class);
        }
        classes
    }
}

/// Sums `[row class][column class][C]`.
fn class_sums(shape: &ConvShape, x: &[f32], rows: &Classes, columns: &Classes) -> Vec<f64> {
    let kernels = Kernels::new(Isa::detect());
    let row_len = shape.in_width * shape.in_channels;
    let rows_per_range = (shape.batch * shape.in_height).div_ceil(RANGES);
    let sums_len = rows.taps.len() * columns.taps.len() * shape.in_channels;
    let parts = x.par_chunks(rows_per_range * row_len).enumerate().map(|(i, x)| {
        let (mut sums, mut few) = (vec![0.0_f64; sums_len], vec![0.0_f32; sums_len]);
        add_rows(kernels, (x, i * rows_per_range), shape, [rows, columns], &mut few, &mut sums);
        sums
    });
    let mut totals = vec![0.0; sums_len];
    for part in parts.collect::<Vec<_>>() {
        for (total, sum) in totals.iter_mut().zip(part) {
            *total += sum;
        }
    }
    totals
}

per_isa! {
    /// Adds rows, numbered from the first one's number on, to `sums`. Those of a `few` are added in `f32`.
    fn add_rows(
        rows: (&[f32], usize), shape: &ConvShape, classes: [&Classes; 2], few: &mut [f32], sums: &mut [f64],
    ) = add_rows_body
}

#[inline(always)]
fn add_rows_body<T: Target>(
    (x, first): (&[f32], usize),
    shape: &ConvShape,
    [rows, columns]: [&Classes; 2],
    few: &mut [f32],
    sums: &mut [f64],
) {
    /// As many as a row of a large map has: their sum in `f32` is off by some 1e-7 of it.
    const FEW_PIXELS: usize = 256;
    let channels = shape.in_channels;
    let row_sums_len = columns.taps.len() * channels;
    let few_rows = (FEW_PIXELS / shape.in_width).max(1);
    for (block, x) in x.chunks(few_rows * shape.in_width * channels).enumerate() {
        few.fill(0.0);
        for (j, row) in x.chunks_exact(shape.in_width * channels).enumerate() {
            let row_number = first + block * few_rows + j;
            if let Some(class) = rows.of_line[row_number % shape.in_height] {
                let few = &mut few[class * row_sums_len..(class + 1) * row_sums_len];
                add_pixels(row, channels, &columns.of_line, few);
            }
        }
        for (sum, few) in sums.iter_mut().zip(&*few) {
            *sum += f64::from(*few);
        }
    }
}

/// Adds each pixel of a row to the sums `[class][C]` of its column's class.
#[inline(always)]
fn add_pixels(row: &[f32], channels: usize, classes: &[Option<usize>], sums: &mut [f32]) {
    for (pixel, class) in row.chunks_exact(channels).zip(classes) {
        let Some(class) = class else { continue };
        for (sum, value) in sums[class * channels..(class + 1) * channels].iter_mut().zip(pixel) {
            *sum += value;
        }
    }
}
