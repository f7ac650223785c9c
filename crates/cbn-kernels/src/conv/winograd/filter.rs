//! Transforms of the weight, `U = G g G^T`, and of its gradient, `dg = G^T dU G`.

use std::ops::Range;

use rayon::prelude::*;

use super::fourier::{self, FilterGradientSums, FilterSpectra};
use super::lanes::{Lanes, Separable, Square, Transform2d};
use super::tile_size::{HAS_3_TAPS, Tile};
use super::transforms::{Filter, FilterGradient, Four, Six};
use crate::conv::microkernel::{LANES, PANEL, panel_width};
use crate::isa::{Kernels, Target, per_isa, prefetch};

const TAPS: usize = 9;

/// How the convolution that is computed reads the weight `[K, C, 3, 3]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From C channels to K.
    Forward,
    /// From K channels to C, taps mirrored: the data gradient.
    Backward,
}

/// Floats between the frequencies of a panel of `U`: padded, or the stores of a filter would fall on few cache sets.
pub(super) fn u_stride(source: usize, width: usize) -> usize {
    source * width + LANES
}

/// Floats of `U`.
pub(super) fn u_len(tile: Tile, [source, target]: [usize; 2]) -> usize {
    (0..target).step_by(PANEL).map(|first| tile.frequencies() * u_stride(source, panel_width(target, first))).sum()
}

/// `U` as panels `[K / 64][frequency][C][width]`, where K are the channels that are computed; [`u_stride`] between frequencies.
pub(super) fn transform_weight(
    kernels: Kernels,
    tile: Tile,
    weight: &[f32],
    channels: [usize; 2],
    direction: Direction,
    u: &mut [f32],
) {
    u.par_chunks_mut(tile.frequencies() * u_stride(channels[0], PANEL)).enumerate().for_each(|(i, panel)| {
        transform_panel(kernels, tile, weight, channels, direction, (i * PANEL, 0..channels[0]), panel);
    });
}

/// The same `U`, for the forward direction, from the packed panels `[9][C][width]` of a weight.
pub(crate) fn transform_panels(kernels: Kernels, tile: Tile, panels: &[&[f32]], channels: [usize; 2]) -> Vec<f32> {
    let mut u = vec![0.0; u_len(tile, channels)];
    let panels = panels.par_iter().zip(u.par_chunks_mut(tile.frequencies() * u_stride(channels[0], PANEL)));
    panels.for_each(|(panel, u)| transform_packed_panel(kernels, tile, panel, channels[0], u));
    u
}

per_isa! {
    fn transform_packed_panel(tile: Tile, panel: &[f32], source: usize, u: &mut [f32])
        = transform_packed_panel_body
}

per_isa! {
    /// The panel of `U` of the target channels from the first of `part` on, as far as it reads the source channels of `part`.
    pub(super) fn transform_panel(
        tile: Tile, weight: &[f32], channels: [usize; 2], direction: Direction, part: (usize, Range<usize>),
        panel: &mut [f32],
    ) = transform_panel_body
}

per_isa! {
    /// A panel of rows of the weight's gradient, of all `source` channels, as far as it is of `sources`: from `du[f]` of shape
    /// `[sources][width]`, with a stride between the frequencies.
    pub(super) fn gather_panel(
        tile: Tile, du: (&[f32], usize, usize), source: usize, sources: Range<usize>, grad_weight: &mut [f32],
        accumulate: bool,
    ) = gather_panel_body
}

#[inline(always)]
fn transform_panel_body<T: Target>(
    tile: Tile,
    weight: &[f32],
    channels: [usize; 2],
    direction: Direction,
    part: (usize, Range<usize>),
    panel: &mut [f32],
) {
    match tile {
        Tile::F4x3 => panel_of::<Square<Filter<Four>, 6>>(weight, channels, direction, part, panel),
        Tile::F6x3 => panel_of::<Square<Filter<Six>, 8>>(weight, channels, direction, part, panel),
        Tile::F46x3 => panel_of::<Separable<Filter<Four>, Filter<Six>, 6, 8>>(weight, channels, direction, part, panel),
        Tile::F64x3 => panel_of::<Separable<Filter<Six>, Filter<Four>, 8, 6>>(weight, channels, direction, part, panel),
        Tile::Whole => panel_of::<FilterSpectra>(weight, channels, direction, part, panel),
        Tile::F5x4 => unreachable!("{HAS_3_TAPS}"),
    }
}

#[inline(always)]
fn panel_of<F: Transform2d<3, 3>>(
    weight: &[f32],
    [source, target]: [usize; 2],
    direction: Direction,
    (first, sources): (usize, Range<usize>),
    panel: &mut [f32],
) {
    let width = panel_width(target, first);
    let (target_stride, source_stride) = match direction {
        Direction::Forward => (source * TAPS, TAPS),
        Direction::Backward => (TAPS, target * TAPS),
    };
    let stride = u_stride(sources.len(), width);
    let mut half = F::EMPTY;
    for (i, s, column) in places(&sources, source, width) {
        let mut square = [[Lanes::ZERO; 3]; 3];
        for lane in 0..LANES.min(target.saturating_sub(first + column)) {
            let start = (first + column + lane) * target_stride + s * source_stride;
            for (tap, value) in weight[start..start + TAPS].iter().enumerate() {
                let tap = if direction == Direction::Forward { tap } else { TAPS - 1 - tap };
                square[tap / 3][tap % 3].0[lane] = *value;
            }
        }
        let u = &mut panel[i * width + column..];
        F::apply(
            |r, s| square[r][s],
            |f, lanes| {
                lanes.store(&mut u[f * stride..]);
                prefetch(u, f * stride + LANES);
            },
            &mut half,
        );
    }
}

/// The order in which a panel is transformed: place among `sources`, channel, and first of 16 columns.
///
/// What is written of all channels fills no cache, and is written line by line; a slab does, and is read from as many streams of memory as
/// the first-level cache holds: see `pack_panel`.
#[inline(always)]
fn places(sources: &Range<usize>, source: usize, width: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let at_once = if sources.len() < source { LANES } else { width };
    let start = sources.start;
    let columns = move |first: usize| (first..width.min(first + at_once)).step_by(LANES);
    (0..width).step_by(at_once.max(1)).flat_map(move |first| {
        (0..sources.len()).flat_map(move |i| columns(first).map(move |column| (i, start + i, column)))
    })
}

#[inline(always)]
fn transform_packed_panel_body<T: Target>(tile: Tile, panel: &[f32], source: usize, u: &mut [f32]) {
    match tile {
        Tile::F4x3 => packed_panel_of::<Square<Filter<Four>, 6>>(panel, source, u),
        Tile::F6x3 => packed_panel_of::<Square<Filter<Six>, 8>>(panel, source, u),
        Tile::F46x3 => packed_panel_of::<Separable<Filter<Four>, Filter<Six>, 6, 8>>(panel, source, u),
        Tile::F64x3 => packed_panel_of::<Separable<Filter<Six>, Filter<Four>, 8, 6>>(panel, source, u),
        Tile::Whole => packed_panel_of::<FilterSpectra>(panel, source, u),
        Tile::F5x4 => unreachable!("{HAS_3_TAPS}"),
    }
}

#[inline(always)]
fn packed_panel_of<F: Transform2d<3, 3>>(panel: &[f32], source: usize, u: &mut [f32]) {
    let width = panel.len() / (TAPS * source);
    let mut half = F::EMPTY;
    for at in (0..source * width).step_by(LANES) {
        let load = |r, s| Lanes::load(&panel[(r * 3 + s) * source * width + at..]);
        let (stride, u) = (u_stride(source, width), &mut u[at..]);
        F::apply(
            load,
            |f, lanes| {
                lanes.store(&mut u[f * stride..]);
                prefetch(u, f * stride + LANES);
            },
            &mut half,
        );
    }
}

/// `dg`, or what is added to it if it `accumulate`s, from `dU`, `[frequency][K / 64][C][width]` with a stride between the frequencies.
pub(super) fn gather_weight_gradient(
    kernels: Kernels,
    tile: Tile,
    (du, stride): (&[f32], usize),
    [source, target]: [usize; 2],
    grad_weight: &mut [f32],
    accumulate: bool,
) {
    grad_weight.par_chunks_mut(PANEL * source * TAPS).enumerate().for_each(|(i, grad_weight)| {
        let width = panel_width(target, i * PANEL);
        let du = (&du[i * PANEL * source..], stride, width);
        gather_panel(kernels, tile, du, source, 0..source, grad_weight, accumulate);
    });
}

#[inline(always)]
fn gather_panel_body<T: Target>(
    tile: Tile,
    du: (&[f32], usize, usize),
    source: usize,
    sources: Range<usize>,
    grad_weight: &mut [f32],
    accumulate: bool,
) {
    type Wide = Separable<FilterGradient<Four>, FilterGradient<Six>, 3, 3>;
    type High = Separable<FilterGradient<Six>, FilterGradient<Four>, 3, 3>;
    match tile {
        Tile::F4x3 => gather_of::<Square<FilterGradient<Four>, 3>, 6, 6>(du, source, sources, grad_weight, accumulate),
        Tile::F6x3 => gather_of::<Square<FilterGradient<Six>, 3>, 8, 8>(du, source, sources, grad_weight, accumulate),
        Tile::F46x3 => gather_of::<Wide, 6, 8>(du, source, sources, grad_weight, accumulate),
        Tile::F64x3 => gather_of::<High, 8, 6>(du, source, sources, grad_weight, accumulate),
        Tile::Whole => {
            gather_of::<FilterGradientSums, 1, { fourier::PRODUCTS }>(du, source, sources, grad_weight, accumulate);
        }
        Tile::F5x4 => unreachable!("{HAS_3_TAPS}"),
    }
}

#[inline(always)]
fn gather_of<F: Transform2d<N, P>, const N: usize, const P: usize>(
    (du, stride, width): (&[f32], usize, usize),
    source: usize,
    sources: Range<usize>,
    grad_weight: &mut [f32],
    accumulate: bool,
) {
    let valid = grad_weight.len() / (source * TAPS);
    let mut half = F::EMPTY;
    for (i, s, column) in places(&sources, source, valid) {
        let mut taps = [Lanes::ZERO; TAPS];
        let load = |y, x| {
            let at = (y * P + x) * stride + i * width + column;
            prefetch(du, at + 2 * LANES);
            Lanes::load(&du[at..])
        };
        F::apply(load, |tap, lanes| taps[tap] = lanes, &mut half);
        for lane in 0..LANES.min(valid - column) {
            let out = &mut grad_weight[((column + lane) * source + s) * TAPS..][..TAPS];
            for (out, lanes) in out.iter_mut().zip(&taps) {
                *out = lanes.0[lane] + if accumulate { *out } else { 0.0 };
            }
        }
    }
}
