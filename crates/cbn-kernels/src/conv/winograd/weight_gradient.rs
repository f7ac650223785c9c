//! The weight gradient of a 3x3 convolution: `dU_f = sum_t V_f[t]^T dM_f[t]`, then `dg = G^T dU G`.
//!
//! Tiles are cut into equal groups, [`group_tiles`], which are taken in blocks of some: first the groups are transformed in
//! parallel, then the frequencies are summed in parallel, each over the groups in order. So the result does not depend on
//! the number of threads, nor on how many groups there are in a block.
//!
//! `V`, `dM` and `dU` do not fit the second-level cache, and waiting for the third would cost a quarter of the sums' time. So
//! each part of the sums asks for what the next one reads ([`Ahead`]).

use rayon::prelude::*;

use super::few_tiles;
use super::filter::{gather_panel, gather_weight_gradient};
use super::tile_size::Tile;
use super::tiles::{Map, Strides, Tiling, transform_inputs, transform_output_gradients};
use crate::ahead::Ahead;
use crate::conv::ConvShape;
use crate::conv::microkernel::{LANES, PANEL, ROWS, panel_width, panels_len};
use crate::conv::transposed::multiply_transposed;
use crate::isa::Kernels;
use crate::scratch::with_scratch;

/// Tiles that are summed in registers before they are added to `dU` in memory: by the shape only.
///
/// Many of them save traffic of `dU`, few of them that of `V` and `dM`, which then stay in nearer caches. Equal groups, an
/// even number of them, are equal work for two threads.
fn group_tiles(tile: Tile, tiles: usize, channels: [usize; 2]) -> usize {
    /// From this many elements of the weight's matrix on, the traffic of `dU` is the larger one (measured).
    const LARGE: usize = 200 * 200;
    let most = match tile {
        Tile::Whole => 64,
        _ if channels[0] * channels[1] >= LARGE => 144,
        _ => 96,
    };
    tiles.div_ceil(tiles.div_ceil(most).next_multiple_of(2))
}

/// The gradients of N losses, which share the transform of `x`; each has the bits that it has alone. Of the outputs that are tiled, in
/// a `batch` of so many images.
pub(super) fn run<const N: usize>(
    kernels: Kernels,
    (batch, tilings): (usize, &[Tiling<'_>]),
    shape: &ConvShape,
    x: &[f32],
    grad_ys: [&[f32]; N],
    mut grad_weights: [&mut [f32]; N],
) {
    let (height, width) = (shape.out_height(), shape.out_width());
    let channels = [shape.in_channels, shape.out_channels];
    for (i, &tiling) in tilings.iter().enumerate() {
        let tiles = batch * tiling.bands_per_image() * tiling.tiles_per_band();
        let maps = Maps {
            x: Map { data: x, height: shape.in_height, width: shape.in_width, channels: channels[0] },
            grad_ys: grad_ys.map(|data| Map { data, height, width, channels: channels[1] }),
            tiling,
            group: group_tiles(tiling.tile, tiles, channels),
        };
        sum(kernels, &maps, tiles, grad_weights.each_mut().map(|grad_weight| &mut **grad_weight), i > 0);
    }
}

/// The sums over `tiles` tiles, or what is added to them if they `accumulate`.
fn sum<const N: usize>(
    kernels: Kernels,
    maps: &Maps<'_, N>,
    tiles: usize,
    grad_weights: [&mut [f32]; N],
    accumulate: bool,
) {
    let frequencies = maps.frequencies();
    let (source, target) = (maps.x.channels, maps.target());
    let groups = rayon::current_num_threads().max(2).min(tiles.div_ceil(maps.group));
    if few_tiles::are_few(tiles, [source, target]) && tiles <= groups * maps.group {
        return sum_slabs(kernels, maps, tiles, grad_weights, accumulate);
    }
    let group_len = maps.group_len();
    let du_stride = panels_len(target, source);
    with_scratch(N * frequencies * du_stride + groups * group_len, |scratch| {
        let (du, scratch) = scratch.split_at_mut(N * frequencies * du_stride);
        for block in (0..tiles).step_by(groups * maps.group) {
            scratch.par_chunks_mut(group_len).enumerate().for_each(|(i, group)| {
                let start = block + i * maps.group;
                maps.transform(kernels, start.min(tiles)..(start + maps.group).min(tiles), group);
            });
            let tiles = (block..tiles.min(block + groups * maps.group)).len();
            let parts: Vec<_> = du.chunks_mut(du_stride).flat_map(|du| du.chunks_mut(PANEL * source)).collect();
            parts.into_par_iter().enumerate().for_each(|(i, du)| {
                for (j, group) in scratch.chunks_exact(group_len).enumerate() {
                    let tiles = maps.group.min(tiles.saturating_sub(j * maps.group));
                    let [v, dm] = maps.part(i, group, tiles);
                    let ahead = maps.ahead(i, group, tiles, du);
                    multiply_transposed(kernels, v, dm, du, block + j > 0, ahead);
                }
            });
        }
        for (grad_weight, du) in grad_weights.into_iter().zip(du.chunks_exact(frequencies * du_stride)) {
            let du = (du, du_stride);
            gather_weight_gradient(kernels, maps.tiling.tile, du, [source, target], grad_weight, accumulate);
        }
    });
}

/// [`sum`] of few tiles, whose time is that of writing and reading `dU`: by slabs of it, each of which is gathered while it is near.
fn sum_slabs<const N: usize>(
    kernels: Kernels,
    maps: &Maps<'_, N>,
    tiles: usize,
    grad_weights: [&mut [f32]; N],
    accumulate: bool,
) {
    /// Input channels of a slab; a multiple of [`ROWS`].
    const SLAB: usize = 6 * ROWS;
    let (source, frequencies) = (maps.x.channels, maps.frequencies());
    let group_len = maps.group_len();
    let group_tiles = |j: usize| maps.group.min(tiles.saturating_sub(j * maps.group));
    with_scratch(tiles.div_ceil(maps.group) * group_len, |scratch| {
        scratch.par_chunks_mut(group_len).enumerate().for_each(|(j, group)| {
            let start = j * maps.group;
            maps.transform(kernels, start..start + group_tiles(j), group);
        });
        let scratch = &*scratch;
        for (gradient, grad_weight) in grad_weights.into_iter().enumerate() {
            grad_weight.par_chunks_mut(PANEL * source * 9).enumerate().for_each(|(panel, grad_weight)| {
                let width = panel_width(maps.target(), panel * PANEL);
                let stride = SLAB * width + LANES;
                with_scratch(frequencies * stride, |du| {
                    for start in (0..source).step_by(SLAB) {
                        let sources = start..source.min(start + SLAB);
                        for (f, du) in du.chunks_exact_mut(stride).enumerate() {
                            let du = &mut du[..sources.len() * width];
                            for (j, group) in scratch.chunks_exact(group_len).enumerate() {
                                let [v, dm] = maps.part_of([gradient, f, panel], start, group, group_tiles(j));
                                let ahead = [Ahead::of(&du[..0]); 3];
                                multiply_transposed(kernels, v, dm, du, j > 0, ahead);
                            }
                        }
                        let du = (&*du, stride, width);
                        gather_panel(kernels, maps.tiling.tile, du, source, sources, grad_weight, accumulate);
                    }
                });
            });
        }
    });
}

struct Maps<'a, const N: usize> {
    x: Map<'a>,
    grad_ys: [Map<'a>; N],
    tiling: Tiling<'a>,
    /// Tiles of a group.
    group: usize,
}

impl<const N: usize> Maps<'_, N> {
    fn target(&self) -> usize {
        self.grad_ys[0].channels
    }

    fn v_strides(&self) -> Strides {
        // Room for the rows that pad the micro-kernel's last block.
        Strides::new(self.x.channels + ROWS, self.group)
    }

    fn dm_strides(&self, first: usize) -> Strides {
        let tile = panel_width(self.target(), first);
        Strides { frequency: self.group * tile + LANES, tile }
    }

    fn frequencies(&self) -> usize {
        self.tiling.tile.frequencies()
    }

    /// Floats of `V`.
    fn v_len(&self) -> usize {
        self.frequencies() * self.v_strides().frequency
    }

    /// Floats of one gradient's `dM`.
    fn dm_len(&self) -> usize {
        (0..self.target()).step_by(PANEL).map(|first| self.dm_len_of(first)).sum()
    }

    /// Floats of the panel of `dM` from channel `first` on.
    fn dm_len_of(&self, first: usize) -> usize {
        self.frequencies() * self.dm_strides(first).frequency
    }

    fn group_len(&self) -> usize {
        self.v_len() + N * self.dm_len()
    }

    /// All transforms of a group of tiles: `V`, then each `dM` by panels.
    fn transform(&self, kernels: Kernels, tiles: std::ops::Range<usize>, group: &mut [f32]) {
        let v_strides = self.v_strides();
        let (v, mut dm) = group.split_at_mut(self.v_len());
        transform_inputs(kernels, (self.x, 0..self.x.channels), &self.tiling, tiles.clone(), v_strides, v);
        for grad_y in self.grad_ys {
            for first in (0..self.target()).step_by(PANEL) {
                let strides = self.dm_strides(first);
                let (panel, rest) = dm.split_at_mut(self.dm_len_of(first));
                transform_output_gradients(kernels, grad_y, &self.tiling, tiles.clone(), first, strides, panel);
                dm = rest;
            }
        }
    }

    /// What part `i` of the `dU`, numbered `[gradient][frequency][panel]`, sums of a group: `V` and `dM`, each with its
    /// tile stride.
    fn part<'a>(&self, i: usize, group: &'a [f32], tiles: usize) -> [(&'a [f32], usize); 2] {
        let panels = self.target().div_ceil(PANEL);
        let place = [i / panels / self.frequencies(), i / panels % self.frequencies(), i % panels];
        self.part_of(place, 0, group, tiles)
    }

    /// `V` from channel `source` on, and `dM`, of a gradient, frequency and panel.
    fn part_of<'a>(
        &self,
        [gradient, frequency, panel]: [usize; 3],
        source: usize,
        group: &'a [f32],
        tiles: usize,
    ) -> [(&'a [f32], usize); 2] {
        let (v_strides, dm_strides) = (self.v_strides(), self.dm_strides(panel * PANEL));
        let v = &group[frequency * v_strides.frequency + source..][..tiles * v_strides.tile];
        let dm = &group[self.v_len() + gradient * self.dm_len()..];
        let dm_start = panel * self.dm_len_of(0) + frequency * dm_strides.frequency;
        let dm = &dm[dm_start..][..tiles * dm_strides.tile];
        [(v, v_strides.tile), (dm, dm_strides.tile)]
    }

    /// What part `i + 1` of the `dU` will need: its `dM`, its sums behind those of part `i`, and, if it is the first of a
    /// frequency, its `V`, of which each part of the frequency before brings a share.
    fn ahead(&self, i: usize, group: &[f32], tiles: usize, du: &[f32]) -> [Ahead; 3] {
        let panels = self.target().div_ceil(PANEL);
        let parts = N * self.frequencies() * panels;
        let [_, (dm, _)] = self.part((i + 1) % parts, group, tiles);
        let [(v, _), _] = self.part((i / panels + 1) * panels % parts, group, tiles);
        let share = i % panels;
        let v = &v[v.len() * share / panels..v.len() * (share + 1) / panels];
        [Ahead::of(v), Ahead::of(dm), Ahead::behind(du)]
    }
}
