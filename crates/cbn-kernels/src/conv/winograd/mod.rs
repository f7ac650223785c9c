//! 3x3 convolutions of stride 1 by Winograd's F(4x4, 3x3): 36 products per 4 x 4 outputs instead of 144.
//!
//! Forward, per task of some bands of tiles: transform the inputs to `V [36][T][C]`; per panel of 64 output channels multiply
//! each frequency with the transformed weight, `M_f = V_f U_f`, which stays in the second-level cache; transform back, finish,
//! store. The data gradient is the same with the weight mirrored and its channels exchanged. Weight gradient: see
//! [`weight_gradient`].
//!
//! The relative L2 error is a few times 1e-6, growing with the channel count, where a direct sum has a few times 1e-7.

mod filter;
mod lanes;
mod tiles;
mod weight_gradient;

use std::ops::Range;

use rayon::prelude::*;

pub(crate) use self::filter::transform_panels;
use self::filter::{Direction, transform_weight, u_len, u_stride};
pub(crate) use self::tiles::tile_count;
use self::tiles::{FREQUENCIES, Finish, Map, Strides, Tiling, transform_inputs, transform_outputs};
pub(crate) use self::weight_gradient::run as backward_weight;
use super::ConvShape;
use super::epilogue::Epilogue;
use super::microkernel::{LANES, PANEL, multiply_rows, panel_width};
use super::packed_weight::Weight;
use crate::isa::Kernels;
use crate::out::Out;
use crate::scratch::with_scratch;
use crate::stream;

/// Tiles that share a pass over the transformed weight; a multiple of the micro-kernel's 6 rows.
const BLOCK: usize = 60;

/// Whether F(4x4, 3x3) computes this convolution at all.
pub(crate) fn is_applicable(shape: &ConvShape) -> bool {
    shape.kernel == [3, 3]
        && shape.stride == [1, 1]
        && shape.dilation == [1, 1]
        && shape.groups == 1
        && shape.padding.iter().all(|&padding| padding <= 2)
}

pub(crate) fn forward(
    kernels: Kernels,
    shape: &ConvShape,
    x: &[f32],
    weight: Weight<'_>,
    epilogue: &Epilogue<'_>,
    y: &mut Out,
) {
    let map = Map { data: x, height: shape.in_height, width: shape.in_width, channels: shape.in_channels };
    let tiling = Tiling { height: shape.out_height(), width: shape.out_width(), padding: shape.padding };
    let mut run = |u: &[f32]| run(kernels, map, tiling, (u, shape.out_channels), epilogue, y);
    match weight {
        Weight::Plain(weight) => {
            with_u(kernels, weight, [shape.in_channels, shape.out_channels], Direction::Forward, run)
        }
        Weight::Packed(weight) => run(weight.transformed(kernels)),
    }
}

pub(crate) fn backward_input(kernels: Kernels, shape: &ConvShape, grad_y: &[f32], weight: &[f32], grad_x: &mut Out) {
    let (height, width) = (shape.out_height(), shape.out_width());
    let map = Map { data: grad_y, height, width, channels: shape.out_channels };
    let padding = shape.padding.map(|padding| 2 - padding);
    let tiling = Tiling { height: shape.in_height, width: shape.in_width, padding };
    with_u(kernels, weight, [shape.out_channels, shape.in_channels], Direction::Backward, |u| {
        run(kernels, map, tiling, (u, shape.in_channels), &Epilogue::default(), grad_x);
    });
}

/// Calls `work` with the transformed weight; `channels` are those that are read and those that are computed.
fn with_u(kernels: Kernels, weight: &[f32], channels: [usize; 2], direction: Direction, work: impl FnOnce(&[f32])) {
    with_scratch(u_len(channels[0], channels[1]), |u| {
        transform_weight(kernels, weight, channels, direction, u);
        work(u);
    });
}

/// Computes `target` channels from the transformed weight.
fn run(
    kernels: Kernels,
    map: Map<'_>,
    tiling: Tiling,
    (u, target): (&[f32], usize),
    epilogue: &Epilogue<'_>,
    y: &mut Out,
) {
    let mut tasks = Vec::new();
    let is_streamed = stream::is_worth_it(y, target);
    let (mut rest, mut start) = (y, 0);
    for bands in task_bands(&tiling, rest.len() / target) {
        let end = tiling.first_pixel(bands.end) * target;
        let (y, tail) = rest.split_at_mut(end - start);
        let epilogue = epilogue.narrow(start, end);
        tasks.push((bands, Finish { epilogue, first_pixel: start / target, is_streamed }, y));
        (rest, start) = (tail, end);
    }
    tasks.into_par_iter().for_each(|(bands, finish, y)| {
        Task { kernels, map, tiling, u, target, finish }.run(bands, y);
    });
}

/// Cuts the bands into ranges of about [`BLOCK`] tiles, such that the threads get equal shares. No sum depends on it.
fn task_bands(tiling: &Tiling, pixels: usize) -> Vec<Range<usize>> {
    let bands = pixels / (tiling.height * tiling.width) * tiling.bands_per_image();
    let threads = rayon::current_num_threads();
    let rounds = (bands * tiling.tiles_per_band()).div_ceil(threads * BLOCK);
    let tasks = (threads * rounds).min(bands);
    (0..tasks).map(|i| i * bands / tasks..(i + 1) * bands / tasks).collect()
}

/// Cuts a range of tiles into equal blocks of at most `most`.
fn blocks(tiles: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let size = tiles.len().div_ceil(tiles.len().div_ceil(most).max(1)).next_multiple_of(6).min(most);
    tiles.clone().step_by(size.max(1)).map(move |start| start..(start + size).min(tiles.end))
}

struct Task<'a> {
    kernels: Kernels,
    map: Map<'a>,
    tiling: Tiling,
    u: &'a [f32],
    target: usize,
    finish: Finish<'a>,
}

impl Task<'_> {
    fn run(&self, bands: Range<usize>, y: &mut Out) {
        let per_band = self.tiling.tiles_per_band();
        for tiles in blocks(bands.start * per_band..bands.end * per_band, BLOCK) {
            let strides = Strides::new(self.map.channels, tiles.len());
            with_scratch(strides.len(), |v| {
                transform_inputs(self.kernels, self.map, &self.tiling, tiles.clone(), strides, v);
                self.multiply(v, strides, tiles, y);
            });
        }
    }

    fn multiply(&self, v: &[f32], strides: Strides, tiles: Range<usize>, y: &mut Out) {
        let source = self.map.channels;
        let frequencies = v.chunks_exact(strides.frequency);
        let rows = frequencies.flat_map(|v| v.chunks_exact(strides.tile)).map(|row| &row[..source]);
        let rows: Vec<&[f32]> = rows.collect();
        let m_len = FREQUENCIES * (tiles.len() * PANEL + LANES);
        with_scratch(m_len, |m| {
            for first in (0..self.target).step_by(PANEL) {
                let width = panel_width(self.target, first);
                let m_strides = Strides { frequency: m.len() / FREQUENCIES, tile: width };
                let panel = &self.u[first / PANEL * FREQUENCIES * u_stride(source, PANEL)..];
                let frequencies = rows.chunks_exact(tiles.len()).zip(panel.chunks_exact(u_stride(source, width)));
                for ((rows, u), m) in frequencies.zip(m.chunks_exact_mut(m_strides.frequency)) {
                    let panel = (&u[..source * width], width);
                    multiply_rows(self.kernels, (rows, false), 0, panel, &mut m[..tiles.len() * width], false);
                }
                let channels = (first, width.min(self.target - first), self.target);
                let (tiling, tiles) = (&self.tiling, tiles.clone());
                transform_outputs(self.kernels, m, m_strides, tiling, tiles, &self.finish, channels, y);
            }
        });
    }
}
