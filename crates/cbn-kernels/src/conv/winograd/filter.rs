//! Transforms of the weight, `U = G g G^T`, and of its gradient, `dg = G^T dU G`.

use std::ops::Range;

use rayon::prelude::*;

use super::fourier::{self, FilterGradientSums, FilterSpectra};
use super::lanes::{Lanes, Separable, Square, Transform2d};
use super::tile_size::{HAS_3_TAPS, Tile};
use super::transforms::{Filter, FilterGradient, Four, Six};
use crate::conv::microkernel::{LANES, PANEL, panel_width};
use crate::isa::{Kernels, Target, per_isa, prefetch};
use crate::transpose::transpose;

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
        Tile::F4x3 => panel_of::<T, Square<Filter<Four>, 6>>(weight, channels, direction, part, panel),
        Tile::F6x3 => panel_of::<T, Square<Filter<Six>, 8>>(weight, channels, direction, part, panel),
        Tile::F46x3 => {
            panel_of::<T, Separable<Filter<Four>, Filter<Six>, 6, 8>>(weight, channels, direction, part, panel)
        }
        Tile::F64x3 => {
            panel_of::<T, Separable<Filter<Six>, Filter<Four>, 8, 6>>(weight, channels, direction, part, panel)
        }
        Tile::Whole => panel_of::<T, FilterSpectra>(weight, channels, direction, part, panel),
        Tile::F5x4 => unreachable!("{HAS_3_TAPS}"),
    }
}

#[inline(always)]
fn panel_of<T: Target, F: Transform2d<3, 3>>(
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
    let corner = |source: usize, column: usize| (first + column) * target_stride + source * source_stride;
    let mut half = F::EMPTY;
    let mut taps = [[Lanes::ZERO; TAPS]; LANES];
    for (start, column, next) in blocks(&sources, width) {
        let valid = LANES.min(target.saturating_sub(first + column));
        let taps = &mut taps[..LANES.min(sources.end - start)];
        let at = corner(start, column);
        match direction {
            Direction::Forward => read_rows::<T>(weight, at, target_stride, valid, taps),
            Direction::Backward => read_mirrored_columns::<T>(weight, at, source_stride, valid, taps),
        }
        for (i, taps) in taps.iter().enumerate() {
            let place = |source: usize, column: usize| (source - sources.start + i) * width + column;
            let ahead = place(next[0], next[1]) - place(start, column);
            let u = &mut panel[place(start, column)..];
            F::apply(
                |r, s| taps[r * 3 + s],
                |f, lanes| {
                    lanes.store(&mut u[f * stride..]);
                    prefetch(u, f * stride + ahead);
                },
                &mut half,
            );
        }
    }
}

/// The blocks of a panel that are moved at a time, 16 source channels and 16 columns, by their first ones; and those of the block behind.
#[inline(always)]
fn blocks(sources: &Range<usize>, width: usize) -> impl Iterator<Item = (usize, usize, [usize; 2])> {
    sources.clone().step_by(LANES).flat_map(move |source| {
        (0..width).step_by(LANES).map(move |column| {
            let next = if column + LANES < width { [source, column + LANES] } else { [source + LANES, 0] };
            (source, column, next)
        })
    })
}

/// The taps of some source channels, each a row of `weight` from `at` on for each of 16 target channels, of which `valid` are there.
#[inline(always)]
fn read_rows<T: Target>(weight: &[f32], at: usize, stride: usize, valid: usize, taps: &mut [[Lanes; TAPS]]) {
    if T::IS_WIDE && valid == LANES && taps.len() == LANES {
        let taps = taps.as_flattened_mut();
        for i in (0..LANES * TAPS).step_by(LANES) {
            transpose::<T>(|lane| &weight[at + lane * stride + i..], |j, lanes| taps[i + j].0 = *lanes);
        }
        return;
    }
    for (s, taps) in taps.iter_mut().enumerate() {
        *taps = [Lanes::ZERO; TAPS];
        for lane in 0..valid {
            for (taps, value) in taps.iter_mut().zip(&weight[at + lane * stride + s * TAPS..][..TAPS]) {
                taps.0[lane] = *value;
            }
        }
    }
}

/// The mirrored taps of some source channels, each of which is a row of `weight` from `at` on for 16 target channels, of which `valid` are there.
#[inline(always)]
fn read_mirrored_columns<T: Target>(
    weight: &[f32],
    at: usize,
    stride: usize,
    valid: usize,
    taps: &mut [[Lanes; TAPS]],
) {
    for (s, taps) in taps.iter_mut().enumerate() {
        let taps: &mut [Lanes; TAPS] = taps;
        let at = at + s * stride;
        if T::IS_WIDE && valid == LANES && weight.len() >= at + LANES * TAPS + LANES {
            let mirrored = |tap: usize, lanes: &[f32; LANES]| {
                if tap < TAPS {
                    taps[TAPS - 1 - tap].0 = *lanes;
                }
            };
            transpose::<T>(|lane| &weight[at + lane * TAPS..], mirrored);
            continue;
        }
        *taps = [Lanes::ZERO; TAPS];
        for lane in 0..valid {
            for (tap, value) in weight[at + lane * TAPS..][..TAPS].iter().enumerate() {
                taps[TAPS - 1 - tap].0[lane] = *value;
            }
        }
    }
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
        Tile::F4x3 => {
            gather_of::<T, Square<FilterGradient<Four>, 3>, 6, 6>(du, source, sources, grad_weight, accumulate)
        }
        Tile::F6x3 => {
            gather_of::<T, Square<FilterGradient<Six>, 3>, 8, 8>(du, source, sources, grad_weight, accumulate)
        }
        Tile::F46x3 => gather_of::<T, Wide, 6, 8>(du, source, sources, grad_weight, accumulate),
        Tile::F64x3 => gather_of::<T, High, 8, 6>(du, source, sources, grad_weight, accumulate),
        Tile::Whole => {
            gather_of::<T, FilterGradientSums, 1, { fourier::PRODUCTS }>(du, source, sources, grad_weight, accumulate);
        }
        Tile::F5x4 => unreachable!("{HAS_3_TAPS}"),
    }
}

#[inline(always)]
fn gather_of<T: Target, F: Transform2d<N, P>, const N: usize, const P: usize>(
    (du, stride, width): (&[f32], usize, usize),
    source: usize,
    sources: Range<usize>,
    grad_weight: &mut [f32],
    accumulate: bool,
) {
    let valid = grad_weight.len() / (source * TAPS);
    let corner = |source_channel: usize, column: usize| (column * source + source_channel) * TAPS;
    let mut half = F::EMPTY;
    let mut taps = [[Lanes::ZERO; TAPS]; LANES];
    for (start, column, next) in blocks(&sources, valid) {
        let taps = &mut taps[..LANES.min(sources.end - start)];
        for (i, taps) in taps.iter_mut().enumerate() {
            let place = |source: usize, column: usize| (source - sources.start + i) * width + column;
            let (at, next) = (place(start, column), place(next[0], next[1]));
            let load = |y, x| {
                let frequency = (y * P + x) * stride;
                prefetch(du, frequency + next);
                Lanes::load(&du[frequency + at..])
            };
            F::apply(load, |tap, lanes| taps[tap] = lanes, &mut half);
        }
        let lanes = LANES.min(valid - column);
        write_rows::<T>(
            taps,
            lanes,
            grad_weight,
            [corner(start, column), corner(next[0], next[1])],
            source * TAPS,
            accumulate,
        );
    }
}

/// Writes or adds what [`read_rows`] would read.
#[inline(always)]
fn write_rows<T: Target>(
    taps: &[[Lanes; TAPS]],
    valid: usize,
    weight: &mut [f32],
    [at, next]: [usize; 2],
    stride: usize,
    accumulate: bool,
) {
    let ahead = next.wrapping_sub(at);
    let mut write = |at: usize, values: &[f32]| {
        prefetch(weight, at.wrapping_add(ahead));
        for (out, value) in weight[at..at + values.len()].iter_mut().zip(values) {
            *out = value + if accumulate { *out } else { 0.0 };
        }
    };
    let taps = taps.as_flattened();
    if T::IS_WIDE && valid == LANES && taps.len() == LANES * TAPS {
        for i in (0..LANES * TAPS).step_by(LANES) {
            transpose::<T>(|j| &taps[i + j].0, |lane, values| write(at + lane * stride + i, values));
        }
        return;
    }
    for lane in 0..valid {
        for (i, taps) in taps.iter().enumerate() {
            write(at + lane * stride + i, &taps.0[lane..=lane]);
        }
    }
}
