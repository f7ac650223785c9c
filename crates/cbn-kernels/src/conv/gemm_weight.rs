//! The weight gradient by matrix multiplication, for any convolution.
//!
//! `dW[k, tap, c] = sum_p x[p, tap, c] * dy[p, k]`. The taps and channels `(tap, c)` are cut into ranges and the output
//! pixels `p` into slabs; a task sums one slab for one range, and the slabs are added in order. Both cuts depend on the shape
//! only, so the result does not depend on the number of threads.

use rayon::prelude::*;

use super::ConvShape;
use super::microkernel::{LANES, PANEL, ROWS, panel_width, panels_len};
use super::transposed::multiply_transposed;
use crate::ahead::Ahead;
use crate::isa::{Kernels, Target, per_isa};
use crate::scratch::with_scratch;

/// Output pixels between two additions to the sums in memory; a panel of that many rows is 32 KiB.
const PIXELS: usize = 128;
/// Most terms (tap, c) of a task: with [`PIXELS`] copies of them in the second-level cache.
const TERMS: usize = 384;
/// Tasks to have at least, if the map is large enough.
const TASKS: usize = 16;

/// A run of what kernel row `row` reads, `[kw][C / groups]`: neighbours in memory.
#[derive(Clone, Copy)]
struct Term {
    row: usize,
    first: usize,
    count: usize,
}

/// The gradients of N losses, which share the copies of `x`; each has the bits that it has alone.
pub(crate) fn run<const N: usize>(
    kernels: Kernels,
    shape: &ConvShape,
    x: &[f32],
    grad_ys: [&[f32]; N],
    mut grad_weights: [&mut [f32]; N],
) {
    let ranges = ranges(shape);
    let pixels = shape.batch * shape.out_height() * shape.out_width();
    let slabs = TASKS.div_ceil(ranges.len()).min(pixels.div_ceil(4 * PIXELS)).max(1);
    let slab_pixels = pixels.div_ceil(slabs);
    let sums_len = panels_len(shape.group_out(), TERMS);
    let group_len = shape.weight_len() / shape.groups;
    with_scratch(ranges.len() * slabs * N * sums_len, |scratch| {
        for group in 0..shape.groups {
            scratch.par_chunks_mut(N * sums_len).enumerate().for_each(|(i, sums)| {
                let (range, slab) = (&ranges[i / slabs], i % slabs);
                let slab = (slab * slab_pixels).min(pixels)..((slab + 1) * slab_pixels).min(pixels);
                Task { kernels, shape, x, grad_ys, group, range }.run(slab, sums);
            });
            for (n, grad_weight) in grad_weights.iter_mut().enumerate() {
                let parts: Vec<&[f32]> = scratch.chunks_exact(sums_len).skip(n).step_by(N).collect();
                let rows = &mut grad_weight[group * group_len..(group + 1) * group_len];
                let rows = rows.par_chunks_mut(LANES * shape.group_in() * shape.taps()).enumerate();
                rows.for_each(|(i, rows)| add_slabs(kernels, shape, &ranges, &parts, i * LANES, rows));
            }
        }
    });
}

/// All terms, at most [`TERMS`] in each range.
fn ranges(shape: &ConvShape) -> Vec<Vec<Term>> {
    let row_len = shape.kernel[1] * shape.group_in();
    // Taps are neighbours only if all channels between them are read.
    let run_len = if shape.groups == 1 && shape.dilation[1] == 1 { row_len } else { shape.group_in() };
    let total = shape.kernel[0] * row_len;
    let range_len = total.div_ceil(total.div_ceil(TERMS)).next_multiple_of(ROWS);
    let mut ranges: Vec<Vec<Term>> = Vec::new();
    for start in (0..total).step_by(range_len) {
        let mut range = Vec::new();
        let (mut at, end) = (start, (start + range_len).min(total));
        while at < end {
            let count = (end - at).min(run_len - at % run_len);
            range.push(Term { row: at / row_len, first: at % row_len, count });
            at += count;
        }
        ranges.push(range);
    }
    ranges
}

fn len(range: &[Term]) -> usize {
    range.iter().map(|term| term.count).sum()
}

per_isa! {
    /// Adds the slabs' sums `[range][slab]` for output channels `first_channel ..` and stores them as the weight is laid out.
    fn add_slabs(
        shape: &ConvShape, ranges: &[Vec<Term>], parts: &[&[f32]], first_channel: usize, rows: &mut [f32],
    ) = add_slabs_body
}

#[inline(always)]
fn add_slabs_body<T: Target>(
    shape: &ConvShape,
    ranges: &[Vec<Term>],
    parts: &[&[f32]],
    first_channel: usize,
    rows: &mut [f32],
) {
    let row_len = shape.group_in() * shape.taps();
    let first = first_channel / PANEL * PANEL;
    let width = panel_width(shape.group_out(), first);
    for (range, slabs) in ranges.iter().zip(parts.chunks_exact(parts.len() / ranges.len())) {
        let mut at = first * TERMS + (first_channel - first);
        for term in range {
            for u in term.first..term.first + term.count {
                let (s, c) = (u / shape.group_in(), u % shape.group_in());
                let place = c * shape.taps() + term.row * shape.kernel[1] + s;
                let mut sums = [0.0; LANES];
                for slab in slabs {
                    for (sum, value) in sums.iter_mut().zip(&slab[at..at + LANES]) {
                        *sum += value;
                    }
                }
                for (row, sum) in rows.chunks_exact_mut(row_len).zip(sums) {
                    row[place] = sum;
                }
                at += width;
            }
        }
    }
}

struct Task<'a, const N: usize> {
    kernels: Kernels,
    shape: &'a ConvShape,
    x: &'a [f32],
    grad_ys: [&'a [f32]; N],
    group: usize,
    range: &'a [Term],
}

impl<const N: usize> Task<'_, N> {
    /// Sums the pixels of a slab to `sums`, `[gradient][panel][term][width]`.
    fn run(&self, slab: std::ops::Range<usize>, sums: &mut [f32]) {
        // Odd in cache lines, so that the rows of a block do not fall on the same sets.
        let stride = (len(self.range) + ROWS).next_multiple_of(2 * LANES) + LANES;
        let sums_len = sums.len() / N;
        with_scratch(PIXELS * (stride + PANEL), |scratch| {
            let (left, panel) = scratch.split_at_mut(PIXELS * stride);
            if slab.is_empty() {
                sums.fill(0.0);
            }
            for start in slab.clone().step_by(PIXELS) {
                let count = PIXELS.min(slab.end - start);
                let left = &mut left[..count * stride];
                self.gather(start, left, stride);
                for (grad_y, sums) in self.grad_ys.into_iter().zip(sums.chunks_exact_mut(sums_len)) {
                    let grad_y = &grad_y[start * self.shape.out_channels..];
                    let next = self.pixels_behind(start + count);
                    self.add_products((left, stride), (grad_y, next), panel, sums, start > slab.start);
                }
            }
        });
    }

    /// Adds the products of gathered pixels with their gradients, or stores them; `panel` is working memory.
    fn add_products(
        &self,
        (left, stride): (&[f32], usize),
        (grad_y, next): (&[f32], &[f32]),
        panel: &mut [f32],
        sums: &mut [f32],
        accumulate: bool,
    ) {
        let (group_out, terms) = (self.shape.group_out(), len(self.range));
        let panels = group_out.div_ceil(PANEL);
        let next_grad_y = &grad_y[(left.len() / stride * self.shape.out_channels).min(grad_y.len())..];
        let next_grad_y = &next_grad_y[..next_grad_y.len().min(PIXELS * self.shape.out_channels)];
        let share = |values: &'_ [f32], i: usize| {
            Ahead::of(&values[values.len() * i / panels..values.len() * (i + 1) / panels])
        };
        for first in (0..group_out).step_by(PANEL) {
            let width = panel_width(group_out, first);
            let valid = width.min(group_out - first);
            let panel = &mut panel[..left.len() / stride * width];
            let channel = self.group * group_out + first;
            for (row, grad_y) in panel.chunks_exact_mut(width).zip(grad_y.chunks_exact(self.shape.out_channels)) {
                row[..valid].copy_from_slice(&grad_y[channel..channel + valid]);
                row[valid..].fill(0.0);
            }
            let tile = &mut sums[first * TERMS..][..terms * width];
            // The operands are near, gathered just before. What the next ones are gathered from is not.
            let ahead = [share(next, first / PANEL), share(next_grad_y, first / PANEL), Ahead::of(&left[..0])];
            multiply_transposed(self.kernels, (left, stride), (panel, width), tile, accumulate, ahead);
        }
    }

    /// About what the last kernel row reads at the [`PIXELS`] output pixels from `start` on.
    fn pixels_behind(&self, start: usize) -> &[f32] {
        let shape = self.shape;
        let (row, column) = (start / shape.out_width(), start % shape.out_width());
        let (image, oy) = (row / shape.out_height(), row % shape.out_height());
        let reach = (shape.kernel[0] - 1) * shape.dilation[0];
        let y = (oy * shape.stride[0] + reach).saturating_sub(shape.padding[0]);
        let first = (image * shape.in_height + y) * shape.in_width + column * shape.stride[1];
        let start = (first * shape.in_channels).min(self.x.len());
        &self.x[start..(start + PIXELS * shape.stride[1] * shape.in_channels).min(self.x.len())]
    }

    /// Copies what the range's taps read at the output pixels from `start` on, a row of `stride` for each.
    fn gather(&self, start: usize, left: &mut [f32], stride: usize) {
        let shape = self.shape;
        let (out_height, out_width) = (shape.out_height(), shape.out_width());
        let row_len = (shape.in_width * shape.in_channels) as isize;
        // Where each term starts, from the pixel that the first tap reads.
        let offset = |term: &Term| {
            let (s, c) = (term.first / shape.group_in(), term.first % shape.group_in());
            s * shape.dilation[1] * shape.in_channels + self.group * shape.group_in() + c
        };
        let offsets: Vec<isize> = self.range.iter().map(|term| offset(term) as isize).collect();
        for (i, row) in left.chunks_exact_mut(stride).enumerate() {
            let pixel = start + i;
            let (image, oy, ox) = (pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width);
            let x = (ox * shape.stride[1]) as isize - shape.padding[1] as isize;
            let mut rest = row;
            for (term, offset) in self.range.iter().zip(&offsets) {
                let (copy, tail) = rest.split_at_mut(term.count);
                rest = tail;
                let y = (oy * shape.stride[0] + term.row * shape.dilation[0]).wrapping_sub(shape.padding[0]);
                if y >= shape.in_height {
                    copy.fill(0.0);
                    continue;
                }
                // The part that is on the map's row; a run ends where a pixel ends, so zeros are whole pixels.
                let at = x * shape.in_channels as isize + offset;
                let low = (-at).clamp(0, term.count as isize);
                let high = (row_len - at).clamp(low, term.count as isize);
                let source = (image * shape.in_height + y) as isize * row_len + at;
                copy[..low as usize].fill(0.0);
                copy[high as usize..].fill(0.0);
                if low < high {
                    let part = &self.x[(source + low) as usize..(source + high) as usize];
                    copy[low as usize..high as usize].copy_from_slice(part);
                }
            }
        }
    }
}
