//! Convolutions of few tiles with a large weight, whose time is the weight's: it is transformed part by part, and each part is used while it
//! is near.
//!
//! The transformed weight is four or seven times the weight: written as a whole and read again, it costs more than the products of few
//! tiles with it. Tasks are panels of output channels. Each sums over the input channels slab by slab: transform the slab of the weight,
//! add its products to `M`. Sums keep the order that they have in [`super::Task`], so the bits are the same.

use rayon::prelude::*;

use super::filter::{Direction, transform_panel, u_stride};
use super::for_each_task;
use super::tile_size::Tile;
use super::tiles::{Map, Strides, Tiling, transform_inputs, transform_outputs};
use crate::ahead::Ahead;
use crate::conv::epilogue::Epilogue;
use crate::conv::microkernel::{LANES, PANEL, multiply_near_rows, panel_width};
use crate::isa::Kernels;
use crate::out::Out;
use crate::scratch::with_scratch;

/// Up to so many tiles a panel of `M` and a slab of the transformed weight stay in the second-level cache.
const MOST_TILES: usize = 60;
/// From so many weights per tap on the transformed weight does not (measured: no difference at 256 x 256, 1.3 times at 384 x 384).
const LARGE: usize = 300 * 300;

/// Whether so many tiles are few for a weight of so many channels.
pub(super) fn are_few(tiles: usize, channels: [usize; 2]) -> bool {
    channels[0] * channels[1] >= LARGE && tiles <= MOST_TILES
}

/// A convolution of few tiles, with the weight as it is.
pub(super) struct FewTiles<'a> {
    pub kernels: Kernels,
    pub map: Map<'a>,
    pub tiling: Tiling<'a>,
    pub weight: &'a [f32],
    pub direction: Direction,
    /// Channels that are computed.
    pub target: usize,
}

impl FewTiles<'_> {
    /// Whether it is faster.
    pub fn is_worth_it(&self, y: &Out) -> bool {
        are_few(self.tiles(y), [self.map.channels, self.target])
    }

    pub fn run(&self, epilogue: &Epilogue<'_>, y: &mut Out) {
        let tiles = self.tiles(y);
        let v_len = self.map.channels.div_ceil(self.slab()) * self.v_len(tiles);
        with_scratch(v_len + self.target.div_ceil(PANEL) * self.m_len(tiles), |scratch| {
            let (v, m) = scratch.split_at_mut(v_len);
            self.transform(tiles, v);
            m.par_chunks_mut(self.m_len(tiles)).enumerate().for_each(|(i, m)| self.multiply(tiles, i * PANEL, v, m));
            self.finish(tiles, m, epilogue, y);
        });
    }

    /// All tiles of the output.
    fn tiles(&self, y: &Out) -> usize {
        let images = y.len() / self.target / (self.tiling.height * self.tiling.width);
        images * self.tiling.bands_per_image() * self.tiling.tiles_per_band()
    }

    fn frequencies(&self) -> usize {
        self.tiling.tile.frequencies()
    }

    /// Input channels of a slab: 300 KB of the transformed weight.
    fn slab(&self) -> usize {
        (32 * Tile::F4x3.frequencies() / self.frequencies()).next_multiple_of(LANES)
    }

    fn v_strides(&self, tiles: usize) -> Strides {
        Strides::new(self.slab(), tiles)
    }

    /// Floats of a slab of `V`.
    fn v_len(&self, tiles: usize) -> usize {
        self.frequencies() * self.v_strides(tiles).frequency
    }

    fn m_strides(&self, tiles: usize, first: usize) -> Strides {
        let tile = panel_width(self.target, first);
        Strides { frequency: tiles * tile + LANES, tile }
    }

    /// Floats of a panel of `M`.
    fn m_len(&self, tiles: usize) -> usize {
        self.frequencies() * self.m_strides(tiles, 0).frequency
    }

    /// `V [slab][frequency][T][C]`.
    fn transform(&self, tiles: usize, v: &mut [f32]) {
        let (slab, source) = (self.slab(), self.map.channels);
        v.par_chunks_mut(self.v_len(tiles)).enumerate().for_each(|(i, v)| {
            let channels = i * slab..source.min((i + 1) * slab);
            transform_inputs(self.kernels, (self.map, channels), &self.tiling, 0..tiles, self.v_strides(tiles), v);
        });
    }

    /// The panel of `M` from output channel `first` on, `[frequency][T][width]`.
    fn multiply(&self, tiles: usize, first: usize, v: &[f32], m: &mut [f32]) {
        let (kernels, slab, source) = (self.kernels, self.slab(), self.map.channels);
        let (v_strides, m_strides) = (self.v_strides(tiles), self.m_strides(tiles, first));
        let width = m_strides.tile;
        with_scratch(self.frequencies() * u_stride(slab, width), |u| {
            for (v, start) in v.chunks_exact(self.v_len(tiles)).zip((0..source).step_by(slab)) {
                let sources = start..source.min(start + slab);
                let (u_len, u_stride) = (sources.len() * width, u_stride(sources.len(), width));
                let (u, channels) = (&mut u[..self.frequencies() * u_stride], [source, self.target]);
                let part = (first, sources);
                transform_panel(kernels, self.tiling.tile, self.weight, channels, self.direction, part, u);
                let operands = v.chunks_exact(v_strides.frequency).zip(u.chunks_exact(u_stride));
                for ((v, u), m) in operands.zip(m.chunks_exact_mut(m_strides.frequency)) {
                    let (panel, m) = ((&u[..u_len], width), &mut m[..tiles * width]);
                    let ahead = [Ahead::behind(v), Ahead::of(&[])];
                    multiply_near_rows(kernels, (v, v_strides.tile), panel, m, start > 0, ahead);
                }
            }
        });
    }

    fn finish(&self, tiles: usize, m: &[f32], epilogue: &Epilogue<'_>, y: &mut Out) {
        let per_band = self.tiling.tiles_per_band();
        for_each_task(&self.tiling, self.target, epilogue, y, |bands, finish, y| {
            let part = bands.start * per_band..bands.end * per_band;
            for (m, first) in m.chunks_exact(self.m_len(tiles)).zip((0..self.target).step_by(PANEL)) {
                let strides = self.m_strides(tiles, first);
                let channels = (first, strides.tile.min(self.target - first), self.target);
                let m = &m[part.start * strides.tile..];
                transform_outputs(self.kernels, m, strides, &self.tiling, part.clone(), &finish, channels, y);
            }
        });
    }
}
