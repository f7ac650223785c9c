//! The data gradient of a strided convolution on few channels, such as a network's first.
//!
//! Every phase of a stride has its own taps and is a product of its own, with as many columns as there are channels, padded to
//! 16: of three channels most columns are padding. Here all phases of a block of `stride x stride` pixels are columns of one
//! product over the union of their taps, which has more terms and far fewer columns to waste. Its results, blocks, are put in
//! their places afterwards.

use rayon::prelude::*;

use super::ConvShape;
use super::epilogue::Epilogue;
use super::gemm;
use super::microkernel::LANES;
use super::packed_weight::Weight;
use super::plan::{Plan, source_offset};
use crate::isa::Kernels;
use crate::out::{self, Out};
use crate::scratch::with_scratch;

/// Whether one product over the union of the taps has fewer multiplications than one for each phase.
pub(crate) fn is_worth_it(shape: &ConvShape) -> bool {
    let [rows, columns] = [0, 1].map(|axis| Union::new(shape, axis).len);
    let phases = shape.stride[0] * shape.stride[1];
    let together = rows * columns * (phases * shape.in_channels).next_multiple_of(LANES);
    // Each tap belongs to one phase.
    let apart = shape.taps() * shape.in_channels.next_multiple_of(LANES);
    shape.groups == 1 && phases > 1 && together < apart
}

pub(crate) fn backward_input(kernels: Kernels, shape: &ConvShape, grad_y: &[f32], weight: &[f32], grad_x: &mut Out) {
    let unions = [0, 1].map(|axis| Union::new(shape, axis));
    let blocks = [shape.in_height.div_ceil(shape.stride[0]), shape.in_width.div_ceil(shape.stride[1])];
    let columns = shape.stride[0] * shape.stride[1] * shape.in_channels;
    let kernel = unions.map(|union| union.len);
    let source = [shape.out_height(), shape.out_width(), shape.out_channels];
    let plan = Plan::dense(source, [blocks[0], blocks[1], columns], kernel, unions.map(|union| union.first));
    with_scratch(columns * shape.out_channels * kernel[0] * kernel[1], |together| {
        join_phases(shape, unions, weight, together);
        with_scratch(shape.batch * blocks[0] * blocks[1] * columns, |y| {
            gemm::run(kernels, &plan, grad_y, Weight::Plain(together), &Epilogue::default(), out::over(y));
            spread(shape, blocks, y, grad_x);
        });
    });
}

/// The offsets, along an axis, that the taps of any phase read from.
#[derive(Clone, Copy)]
struct Union {
    first: isize,
    len: usize,
}

impl Union {
    fn new(shape: &ConvShape, axis: usize) -> Self {
        let phases = 0..shape.stride[axis];
        let offsets = phases.flat_map(|phase| (0..shape.kernel[axis]).map(move |tap| (phase, tap)));
        let offsets = offsets.filter_map(|(phase, tap)| source_offset(shape, axis, phase, tap));
        let (first, last) = offsets.fold((isize::MAX, isize::MIN), |(low, high), at| (low.min(at), high.max(at)));
        Self { first, len: (last - first + 1) as usize }
    }
}

/// The weight as `[phase][C]` rows of `[K][union]`, from `[K, C, kh, kw]`.
fn join_phases(shape: &ConvShape, unions: [Union; 2], weight: &[f32], together: &mut [f32]) {
    together.fill(0.0);
    let union_len = unions[0].len * unions[1].len;
    let [_, stride_x] = shape.stride;
    for (column, row) in together.chunks_exact_mut(shape.out_channels * union_len).enumerate() {
        let (phase, channel) = (column / shape.in_channels, column % shape.in_channels);
        let phase = [phase / stride_x, phase % stride_x];
        for tap in 0..shape.taps() {
            let at = [tap / shape.kernel[1], tap % shape.kernel[1]];
            let [y, x] = [0, 1].map(|axis| source_offset(shape, axis, phase[axis], at[axis]));
            let (Some(y), Some(x)) = (y, x) else { continue };
            let place = (y - unions[0].first) as usize * unions[1].len + (x - unions[1].first) as usize;
            for (k, row) in row.chunks_exact_mut(union_len).enumerate() {
                row[place] = weight[(k * shape.in_channels + channel) * shape.taps() + tap];
            }
        }
    }
}

/// Blocks `[B, H / stride, W / stride, stride * stride * C]` to a map.
fn spread(shape: &ConvShape, blocks: [usize; 2], y: &[f32], grad_x: &mut Out) {
    let [stride_y, stride_x] = shape.stride;
    let channels = shape.in_channels;
    // The pixels of a block's row are neighbours on both sides.
    let run = stride_x * channels;
    let rows = grad_x.par_chunks_mut(shape.in_width * channels).enumerate();
    rows.for_each(|(row, grad_x)| {
        let (image, at) = (row / shape.in_height, row % shape.in_height);
        let first_block = (image * blocks[0] + at / stride_y) * blocks[1];
        let from = y[first_block * stride_y * run..].chunks_exact(stride_y * run);
        for (block, pixels) in from.zip(grad_x.chunks_mut(run)) {
            let of_row = &block[at % stride_y * run..];
            pixels.write_copy_of_slice(&of_row[..pixels.len()]);
        }
    });
}
