//! Depthwise convolutions: as many groups as channels, so that each channel is a convolution of its own.
//!
//! There is no matrix product in it. The loops run over neighbouring channels, 64 at a time in registers, and read the weight
//! as `[tap][C]`.

use std::ops::Range;

use rayon::prelude::*;

use super::ConvShape;
use super::epilogue::Epilogue;
use super::microkernel::LANES;
use super::packed_weight::Weight;
use super::plan::{Phase, Plan};
use crate::isa::{Kernels, Target, per_isa};
use crate::out::Out;
use crate::scratch::with_scratch;

/// Registers of channels that are computed at a time.
const WIDE: usize = 4;
/// Ranges of output rows whose weight gradients are summed on their own, if there are so many rows.
const RANGES: usize = 16;

/// A single channel is a dense convolution, whose plan joins neighbouring taps.
pub(crate) fn is_applicable(shape: &ConvShape) -> bool {
    shape.groups > 1 && shape.groups == shape.in_channels && shape.groups == shape.out_channels
}

/// `[C][tap]` to `[tap][C]`.
pub(crate) fn transpose(weight: &[f32], channels: usize, by_tap: &mut [f32]) {
    let taps = weight.len() / channels;
    for (tap, row) in by_tap.chunks_exact_mut(channels).enumerate() {
        for (value, weight) in row.iter_mut().zip(weight.chunks_exact(taps)) {
            *value = weight[tap];
        }
    }
}

/// Runs the plan of a convolution or of its data gradient: `y` = the plan's sums, finished by `epilogue`.
pub(crate) fn run(kernels: Kernels, plan: &Plan, x: &[f32], weight: Weight<'_>, epilogue: &Epilogue<'_>, y: &mut Out) {
    let row_len = plan.target[1] * plan.target[2];
    let mut run = |weight: &[f32]| {
        y.par_chunks_mut(row_len).enumerate().for_each(|(row, y)| {
            let epilogue = epilogue.narrow(row * row_len, (row + 1) * row_len);
            run_row(kernels, plan, row, x, weight, &epilogue, y);
        });
    };
    match weight {
        Weight::Plain(weight) => with_scratch(weight.len(), |by_tap| {
            transpose(weight, plan.target[2], by_tap);
            run(by_tap);
        }),
        Weight::Packed(weight) => run(weight.by_tap()),
    }
}

/// What a pixel reads for one tap: where, from the start of the row that the tap reads, and where the tap's weights start.
#[derive(Clone, Copy)]
struct Read {
    row_start: usize,
    dx: isize,
    weight: usize,
}

/// The reads of a row of outputs of one phase: those whose row is on the map.
fn reads(plan: &Plan, phase: &Phase, image: usize, y: isize) -> Vec<Read> {
    let [height, width, channels] = plan.source;
    let taps = phase.taps().filter(|(segment, _)| (0..height as isize).contains(&(y + segment.dy)));
    let read = |(segment, tap): (&super::plan::Segment, usize)| Read {
        row_start: (image * height + (y + segment.dy) as usize) * width * channels,
        dx: segment.dx,
        weight: tap * channels,
    };
    taps.map(read).collect()
}

per_isa! {
    /// Row `row` of all images' rows of outputs.
    fn run_row(plan: &Plan, row: usize, x: &[f32], weight: &[f32], epilogue: &Epilogue<'_>, y: &mut Out) = run_row_body
}

#[inline(always)]
fn run_row_body<T: Target>(plan: &Plan, row: usize, x: &[f32], weight: &[f32], epilogue: &Epilogue<'_>, y: &mut Out) {
    let [height, _, channels] = plan.target;
    let [phases_y, phases_x] = plan.phase_count;
    let (image, row) = (row / height, row % height);
    let mut sources = Vec::new();
    for phase_x in 0..phases_x {
        let phase = &plan.phases[row % phases_y * phases_x + phase_x];
        let reads = reads(plan, phase, image, (row / phases_y * plan.step[0]) as isize);
        for (i, y) in y.chunks_exact_mut(channels).enumerate().skip(phase_x).step_by(phases_x) {
            let source_x = (i / phases_x * plan.step[1]) as isize;
            sources.clear();
            for read in &reads {
                let at = source_x + read.dx;
                if at >= 0 && at < plan.source[1] as isize {
                    sources.push((read.row_start + at as usize * channels, read.weight));
                }
            }
            run_pixel::<T>(&sources, x, weight, (epilogue, i * channels), y);
        }
    }
}

/// All channels of one output; `sources` are where its taps start in `x` and in `weight`.
#[inline(always)]
fn run_pixel<T: Target>(
    sources: &[(usize, usize)],
    x: &[f32],
    weight: &[f32],
    (epilogue, offset): (&Epilogue<'_>, usize),
    y: &mut Out,
) {
    let mut first = 0;
    while first < y.len() {
        let mut sums = [0.0; WIDE * LANES];
        let count = if y.len() - first >= WIDE * LANES {
            sum_taps::<T, { WIDE * LANES }>(sources, x, weight, first, &mut sums);
            WIDE * LANES
        } else if y.len() - first >= LANES {
            sum_taps::<T, LANES>(sources, x, weight, first, &mut sums);
            LANES
        } else {
            for channel in first..y.len() {
                sum_taps::<T, 1>(sources, x, weight, channel, &mut sums[channel - first..]);
            }
            y.len() - first
        };
        epilogue.finish::<T>(&sums[..count], first, offset + first, (None, &mut y[first..first + count]));
        first += count;
    }
}

/// N channels of one output from `channel` on.
#[inline(always)]
fn sum_taps<T: Target, const N: usize>(
    sources: &[(usize, usize)],
    x: &[f32],
    weight: &[f32],
    channel: usize,
    out: &mut [f32],
) {
    let mut sums = [0.0; N];
    for (at, tap) in sources {
        let (x, weight) = (&x[at + channel..][..N], &weight[tap + channel..][..N]);
        for i in 0..N {
            sums[i] = T::mul_add(x[i], weight[i], sums[i]);
        }
    }
    out[..N].copy_from_slice(&sums);
}

/// The weight gradient. The ranges of rows depend on the shape only, and are added in order.
pub(crate) fn backward_weight(kernels: Kernels, shape: &ConvShape, x: &[f32], grad_y: &[f32], grad_weight: &mut [f32]) {
    let rows = shape.batch * shape.out_height();
    let range = rows.div_ceil(RANGES);
    with_scratch(rows.div_ceil(range) * shape.weight_len(), |sums| {
        sums.par_chunks_mut(shape.weight_len()).enumerate().for_each(|(i, sums)| {
            sums.fill(0.0);
            sum_rows(kernels, shape, x, grad_y, i * range..rows.min((i + 1) * range), sums);
        });
        let taps = shape.taps();
        for (c, grad_weight) in grad_weight.chunks_exact_mut(taps).enumerate() {
            for (tap, gradient) in grad_weight.iter_mut().enumerate() {
                let ranges = sums.chunks_exact(shape.weight_len());
                *gradient = ranges.map(|sums| sums[tap * shape.in_channels + c]).sum();
            }
        }
    });
}

per_isa! {
    /// Adds the products of some rows of outputs to `sums`, `[tap][C]`.
    fn sum_rows(shape: &ConvShape, x: &[f32], grad_y: &[f32], rows: Range<usize>, sums: &mut [f32]) = sum_rows_body
}

#[inline(always)]
fn sum_rows_body<T: Target>(shape: &ConvShape, x: &[f32], grad_y: &[f32], rows: Range<usize>, sums: &mut [f32]) {
    let channels = shape.in_channels;
    for row in rows {
        let (image, y) = (row / shape.out_height(), row % shape.out_height());
        let grad_y = &grad_y[row * shape.out_width() * channels..][..shape.out_width() * channels];
        for (tap, sums) in sums.chunks_exact_mut(channels).enumerate() {
            let (r, s) = (tap / shape.kernel[1], tap % shape.kernel[1]);
            let source_y = (y * shape.stride[0] + r * shape.dilation[0]).wrapping_sub(shape.padding[0]);
            let outputs = outputs_on_map(shape, s);
            if source_y >= shape.in_height || outputs.is_empty() {
                continue;
            }
            let source_x = outputs.start * shape.stride[1] + s * shape.dilation[1] - shape.padding[1];
            let x = &x[((image * shape.in_height + source_y) * shape.in_width + source_x) * channels..];
            let grad_y = &grad_y[outputs.start * channels..outputs.end * channels];
            sum_products::<T>(x, shape.stride[1] * channels, grad_y, sums);
        }
    }
}

/// The outputs of a row for which horizontal tap `s` is on the map.
fn outputs_on_map(shape: &ConvShape, s: usize) -> Range<usize> {
    let (at, stride) = (s * shape.dilation[1], shape.stride[1]);
    let start = shape.padding[1].saturating_sub(at).div_ceil(stride);
    let end = (shape.in_width + shape.padding[1]).saturating_sub(at).div_ceil(stride);
    start..end.min(shape.out_width())
}

/// Adds to `sums`, one per channel, the products of `grad_y`'s pixels with those of `x`, which are `stride` apart.
#[inline(always)]
fn sum_products<T: Target>(x: &[f32], stride: usize, grad_y: &[f32], sums: &mut [f32]) {
    let channels = sums.len();
    let mut first = 0;
    while channels - first >= WIDE * LANES {
        add_products::<T, { WIDE * LANES }>(x, stride, grad_y, channels, first, sums);
        first += WIDE * LANES;
    }
    while channels - first >= LANES {
        add_products::<T, LANES>(x, stride, grad_y, channels, first, sums);
        first += LANES;
    }
    for channel in first..channels {
        add_products::<T, 1>(x, stride, grad_y, channels, channel, sums);
    }
}

#[inline(always)]
fn add_products<T: Target, const N: usize>(
    x: &[f32],
    stride: usize,
    grad_y: &[f32],
    channels: usize,
    first: usize,
    sums: &mut [f32],
) {
    let mut products = [0.0; N];
    for (x, grad_y) in x.chunks(stride).zip(grad_y.chunks_exact(channels)) {
        let (x, grad_y) = (&x[first..][..N], &grad_y[first..][..N]);
        for i in 0..N {
            products[i] = T::mul_add(x[i], grad_y[i], products[i]);
        }
    }
    for (sum, product) in sums[first..first + N].iter_mut().zip(products) {
        *sum += product;
    }
}
