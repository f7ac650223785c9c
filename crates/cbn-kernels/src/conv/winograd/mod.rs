//! 3x3 convolutions of stride 1 by Winograd's F(4x4, 3x3), 36 products per 4 x 4 outputs instead of 144, or F(6x6, 3x3), 64
//! per 6 x 6 outputs instead of 324.
//!
//! Forward, per task of some bands of tiles: transform the inputs to `V [frequency][T][C]`; per panel of 64 output channels
//! multiply each frequency with the transformed weight, `M_f = V_f U_f`, which stays in the second-level cache; transform back,
//! finish, store. Each product asks for what the next one reads ([`Ahead`]), for neither `V` nor `U` fits that cache. The
//! data gradient is the same with the weight mirrored and its channels exchanged. Weight gradient: see [`weight_gradient`].
//!
//! Where there are few tiles for a large weight, it is transformed part by part: [`few_tiles`]. The same with other tiles serves many small maps, [`mixed`], and some convolutions of stride 2, [`strided`]; with another transform,
//! [`fourier`], maps of up to 7 x 7, each of them one tile.
//!
//! The relative L2 error is 2, 3 and 4e-6 at 64, 256 and 512 channels with small tiles, twice that with large ones, where a
//! direct sum has a few times 1e-7. Half of it or less on maps behind a ReLU. [`fourier`]'s is
//! 4e-7 at 256 channels.

mod few_tiles;
mod filter;
mod fourier;
mod lanes;
pub(crate) mod mixed;
pub(crate) mod strided;
mod tile_size;
mod tiles;
mod transforms;
mod weight_gradient;

use std::ops::Range;

use rayon::prelude::*;

use self::few_tiles::FewTiles;
pub(crate) use self::filter::transform_panels;
use self::filter::{Direction, transform_weight, u_len, u_stride};
pub(crate) use self::tile_size::Tile;
pub use self::tile_size::TileSize;
pub(crate) use self::tiles::Bands;
use self::tiles::{Finish, Map, Strides, Tiling, transform_inputs, transform_outputs};
use super::ConvShape;
use super::epilogue::Epilogue;
use super::microkernel::{LANES, PANEL, multiply_near_rows, panel_width};
use super::packed_weight::Weight;
use crate::ahead::Ahead;
use crate::isa::Kernels;
use crate::out::Out;
use crate::scratch::with_scratch;
use crate::stream;

/// Tiles that share a pass over the transformed weight; a multiple of the micro-kernel's 6 rows. `M` takes 590 KB either way.
fn block(tile: Tile) -> usize {
    match tile {
        Tile::F4x3 => 60,
        Tile::F46x3 | Tile::F64x3 => 48,
        Tile::F6x3 | Tile::F5x4 => 36,
        Tile::Whole => 48,
    }
}

/// Whether it computes this convolution at all.
pub(crate) fn is_applicable(shape: &ConvShape) -> bool {
    shape.kernel == [3, 3]
        && shape.stride == [1, 1]
        && shape.dilation == [1, 1]
        && shape.groups == 1
        && shape.padding.iter().all(|&padding| padding <= 2)
}

/// Whether it computes this convolution of whole maps.
pub(crate) fn is_applicable_whole(shape: &ConvShape) -> bool {
    is_applicable(shape) && shape.padding == [1, 1] && shape.in_height.max(shape.in_width) <= fourier::SIDE
}

/// Whether whole maps are faster than tiles: where four tiles would reach over the edges of each, 94 products are a third fewer.
pub(crate) fn is_worth_it_whole(shape: &ConvShape) -> bool {
    /// Below, transforming and reading a weight of 94 matrices costs more (measured at 64, 256 and 512 channels).
    const MIN_MAPS: usize = 128;
    is_applicable_whole(shape) && shape.in_height.min(shape.in_width) == fourier::SIDE && shape.batch >= MIN_MAPS
}

pub(crate) fn forward(
    (kernels, tile): (Kernels, Tile),
    shape: &ConvShape,
    x: &[f32],
    weight: Weight<'_>,
    epilogue: &Epilogue<'_>,
    y: &mut Out,
) {
    let map = Map { data: x, height: shape.in_height, width: shape.in_width, channels: shape.in_channels };
    let tiling = Tiling::new(tile, Bands::ALL, [shape.out_height(), shape.out_width()], shape.padding);
    let target = shape.out_channels;
    let run = |u: &[f32], y: &mut Out| run(kernels, map, tiling, (u, target), epilogue, y);
    match weight {
        Weight::Plain(weight) => {
            let direction = Direction::Forward;
            let few = FewTiles { kernels, map, tiling, weight, direction, target };
            if few.is_worth_it(y) {
                return few.run(epilogue, y);
            }
            with_u((kernels, tile), weight, [shape.in_channels, target], direction, |u| run(u, y));
        }
        Weight::Packed(weight) => run(weight.transformed(kernels, tile), y),
    }
}

pub(crate) fn backward_input(
    (kernels, tile): (Kernels, Tile),
    shape: &ConvShape,
    grad_y: &[f32],
    weight: &[f32],
    grad_x: &mut Out,
) {
    let (height, width) = (shape.out_height(), shape.out_width());
    let map = Map { data: grad_y, height, width, channels: shape.out_channels };
    let padding = shape.padding.map(|padding| 2 - padding);
    let tiling = Tiling::new(tile, Bands::ALL, [shape.in_height, shape.in_width], padding);
    let (direction, target) = (Direction::Backward, shape.in_channels);
    let few = FewTiles { kernels, map, tiling, weight, direction, target };
    if few.is_worth_it(grad_x) {
        return few.run(&Epilogue::default(), grad_x);
    }
    with_u((kernels, tile), weight, [shape.out_channels, target], direction, |u| {
        run(kernels, map, tiling, (u, target), &Epilogue::default(), grad_x);
    });
}

/// Of the outputs of some bands of tiles, in a `batch` of so many images: see [`weight_gradient::run`].
pub(crate) fn backward_weight<const N: usize>(
    (kernels, tile): (Kernels, Tile),
    (batch, bands): (usize, Bands<'_>),
    shape: &ConvShape,
    x: &[f32],
    grad_ys: [&[f32]; N],
    grad_weights: [&mut [f32]; N],
) {
    let tiling = Tiling::new(tile, bands, [shape.out_height(), shape.out_width()], shape.padding);
    weight_gradient::run(kernels, (batch, &[tiling]), shape, x, grad_ys, grad_weights);
}

/// Calls `work` with the transformed weight; `channels` are those that are read and those that are computed.
fn with_u(
    (kernels, tile): (Kernels, Tile),
    weight: &[f32],
    channels: [usize; 2],
    direction: Direction,
    work: impl FnOnce(&[f32]),
) {
    with_scratch(u_len(tile, channels), |u| {
        transform_weight(kernels, tile, weight, channels, direction, u);
        work(u);
    });
}

/// Computes `target` channels from the transformed weight.
fn run(
    kernels: Kernels,
    map: Map<'_>,
    tiling: Tiling<'_>,
    (u, target): (&[f32], usize),
    epilogue: &Epilogue<'_>,
    y: &mut Out,
) {
    let source = map.channels;
    for_each_task(&tiling, target, epilogue, y, |bands, finish, y| {
        Task { kernels, tiling, source, u, target, finish }.run(map, bands, y);
    });
}

/// Cuts the output into tasks for the threads: calls `work` with their bands and their parts of the output.
fn for_each_task(
    tiling: &Tiling<'_>,
    target: usize,
    epilogue: &Epilogue<'_>,
    y: &mut Out,
    work: impl Fn(Range<usize>, Finish<'_>, &mut Out) + Sync,
) {
    let mut tasks = Vec::new();
    let is_streamed = stream::is_worth_it(y, target);
    let (mut rest, mut start) = (y, 0);
    for bands in task_bands(tiling, rest.len() / target) {
        let end = tiling.first_pixel(bands.end) * target;
        let (y, tail) = rest.split_at_mut(end - start);
        let epilogue = epilogue.narrow(start, end);
        tasks.push((bands, Finish { epilogue, first_pixel: start / target, is_streamed }, y));
        (rest, start) = (tail, end);
    }
    tasks.into_par_iter().for_each(|(bands, finish, y)| work(bands, finish, y));
}

/// Cuts the bands into ranges of some blocks of tiles, such that the threads get equal shares. No sum depends on it.
fn task_bands(tiling: &Tiling<'_>, pixels: usize) -> Vec<Range<usize>> {
    /// Most ranges per thread: in a long one the last block, which may be short, matters less.
    const MOST: usize = 8;
    let bands = pixels / (tiling.height * tiling.width) * tiling.bands_per_image();
    let threads = rayon::current_num_threads();
    let rounds = (bands * tiling.tiles_per_band()).div_ceil(threads * block(tiling.tile));
    let tasks = (threads * rounds.min(MOST)).min(bands);
    (0..tasks).map(|i| i * bands / tasks..(i + 1) * bands / tasks).collect()
}

/// Cuts a range of tiles into equal blocks of at most `most`.
fn blocks(tiles: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let size = tiles.len().div_ceil(tiles.len().div_ceil(most).max(1)).next_multiple_of(6).min(most);
    tiles.clone().step_by(size.max(1)).map(move |start| start..(start + size).min(tiles.end))
}

struct Task<'a> {
    kernels: Kernels,
    tiling: Tiling<'a>,
    /// Channels that are read.
    source: usize,
    u: &'a [f32],
    /// Channels that are computed.
    target: usize,
    finish: Finish<'a>,
}

impl Task<'_> {
    fn run(&self, map: Map<'_>, bands: Range<usize>, y: &mut Out) {
        let per_band = self.tiling.tiles_per_band();
        for tiles in blocks(bands.start * per_band..bands.end * per_band, block(self.tiling.tile)) {
            let strides = Strides::new(map.channels, tiles.len());
            with_scratch(self.frequencies() * strides.frequency, |v| {
                transform_inputs(self.kernels, (map, 0..map.channels), &self.tiling, tiles.clone(), strides, v);
                self.multiply(v, strides, tiles, y);
            });
        }
    }

    fn frequencies(&self) -> usize {
        self.tiling.tile.frequencies()
    }

    /// Writes the outputs of `tiles` from their transformed inputs.
    fn multiply(&self, v: &[f32], strides: Strides, tiles: Range<usize>, y: &mut Out) {
        let source = self.source;
        let (frequencies, count) = (self.frequencies(), tiles.len());
        let m_len = frequencies * (count * PANEL + LANES);
        with_scratch(m_len, |m| {
            for first in (0..self.target).step_by(PANEL) {
                let width = panel_width(self.target, first);
                let m_strides = Strides { frequency: m.len() / frequencies, tile: width };
                let panel = &self.u[first / PANEL * frequencies * u_stride(source, PANEL)..];
                let parts = v.chunks_exact(strides.frequency).zip(panel.chunks_exact(u_stride(source, width)));
                for ((v, u), m) in parts.zip(m.chunks_exact_mut(m_strides.frequency)) {
                    let ahead = [Ahead::behind(v), Ahead::behind(u)];
                    let panel = (&u[..source * width], width);
                    multiply_near_rows(self.kernels, (v, strides.tile), panel, &mut m[..count * width], false, ahead);
                }
                let channels = (first, width.min(self.target - first), self.target);
                let (tiling, tiles) = (&self.tiling, tiles.clone());
                transform_outputs(self.kernels, m, m_strides, tiling, tiles, &self.finish, channels, y);
            }
        });
    }
}
