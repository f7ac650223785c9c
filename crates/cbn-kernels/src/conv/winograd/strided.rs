//! Convolutions of stride 2 with 7 or 8 taps per side, such as a ResNet's stem, by Winograd's F(5x5, 4x4): 64 products of 4 C
//! channels per 5 x 5 outputs, 10.2 C each, where the definition has 49 C.
//!
//! Two rows and two columns of the map make one pixel of four times the channels. On that map the convolution has stride 1 and
//! 4 x 4 taps, those that the kernel does not have being zero. The map is made band by band, which stays in the
//! second-level cache, and the zeros around it are written out, so no tile reaches over its edge.

use super::filter::{u_len, u_stride};
use super::lanes::{Lanes, both_ways};
use super::tiles::{Bands, Map, Strides, Tiling, transform_inputs};
use super::transforms::{Filter, Five};
use super::{Task, Tile, block, blocks, for_each_task};
use crate::conv::ConvShape;
use crate::conv::epilogue::Epilogue;
use crate::conv::microkernel::{LANES, PANEL, panel_width};
use crate::conv::packed_weight::Weight;
use crate::conv::plan::Plan;
use crate::isa::{Kernels, Target, per_isa};
use crate::out::Out;
use crate::scratch::with_scratch;

const TILE: Tile = Tile::F5x4;
/// Outputs of a tile, per side.
const SIDE: usize = 5;
/// Taps per side on the map of joined pixels.
const TAPS: usize = 4;
/// With 65 channels the relative error of single outputs reaches 1.7e-5, with 16 (of 10,000 shapes) 1.3e-5.
const MOST_CHANNELS: usize = 8;
/// Floats of a short copy: two pixels of up to four channels.
const SHORT: usize = 8;

/// Whether it computes this convolution at all.
pub(crate) fn is_applicable(shape: &ConvShape) -> bool {
    shape.stride == [2, 2]
        && shape.dilation == [1, 1]
        && shape.groups == 1
        && (1..=MOST_CHANNELS).contains(&shape.in_channels)
        && shape.kernel.iter().all(|&side| side.div_ceil(2) == TAPS)
}

/// Whether it is faster. The number of maps does not matter: a map has the same bits whatever it is computed with.
pub(crate) fn is_worth_it(shape: &ConvShape) -> bool {
    /// Channels from which on the transforms are repaid.
    const MIN_CHANNELS: [usize; 2] = [2, 16];
    /// Outputs of a map from which on the weight's transform is.
    const MIN_OUTPUTS: usize = 1024;
    is_applicable(shape)
        && shape.in_channels >= MIN_CHANNELS[0]
        && shape.out_channels >= MIN_CHANNELS[1]
        && shape.out_height() * shape.out_width() >= MIN_OUTPUTS
}

pub(crate) fn forward(
    kernels: Kernels,
    shape: &ConvShape,
    x: &[f32],
    weight: Weight<'_>,
    epilogue: &Epilogue<'_>,
    y: &mut Out,
) {
    let (source, target) = (4 * shape.in_channels, shape.out_channels);
    let tiling = tiling(shape.out_height(), shape.out_width());
    with_u(kernels, shape, weight, |u| {
        for_each_task(&tiling, target, epilogue, y, |bands, finish, y| {
            let task = Task { kernels, tiling, source, u, target, finish };
            bands.for_each(|band| run_band(&task, shape, x, band, y));
        });
    });
}

fn tiling(height: usize, width: usize) -> Tiling<'static> {
    Tiling { bands: Bands::ALL, lefts: None, tile: TILE, height, width, padding: [0, 0] }
}

fn run_band(task: &Task<'_>, shape: &ConvShape, x: &[f32], band: usize, y: &mut Out) {
    let per_band = task.tiling.tiles_per_band();
    let joined = Map {
        data: &[],
        height: SIDE + TAPS - 1,
        width: per_band * SIDE + TAPS - 1,
        channels: task.source.next_multiple_of(LANES),
    };
    with_scratch(joined.height * joined.width * joined.channels, |data| {
        let (image, top) = (band / task.tiling.bands_per_image(), band % task.tiling.bands_per_image() * SIDE);
        join_band(task.kernels, shape, x, image, top, [joined.width, joined.channels], data);
        let joined = Map { data, ..joined };
        let one_band = tiling(SIDE, task.tiling.width);
        for tiles in blocks(0..per_band, block(TILE)) {
            let strides = Strides::new(joined.channels, tiles.len());
            with_scratch(TILE.frequencies() * strides.frequency, |v| {
                transform_inputs(task.kernels, (joined, 0..joined.channels), &one_band, tiles.clone(), strides, v);
                task.multiply(v, strides, band * per_band + tiles.start..band * per_band + tiles.end, y);
            });
        }
    });
}

per_isa! {
    /// The joined pixels `[row][column][channels]` that the outputs from row `top` on read. Channels above 4 C are not
    /// written.
    fn join_band(shape: &ConvShape, x: &[f32], image: usize, top: usize, size: [usize; 2], joined: &mut [f32])
        = join_band_body
}

#[inline(always)]
fn join_band_body<T: Target>(
    shape: &ConvShape,
    x: &[f32],
    image: usize,
    top: usize,
    [width, channels]: [usize; 2],
    joined: &mut [f32],
) {
    let row_len = shape.in_width * shape.in_channels;
    for (y, joined) in joined.chunks_exact_mut(width * channels).enumerate() {
        // The upper half may write past its end, over what the lower one will.
        for half in 0..2 {
            let row = (2 * (top + y) + half).checked_sub(shape.padding[0]).filter(|&row| row < shape.in_height);
            let start = row.map(|row| (image * shape.in_height + row) * row_len);
            let joined = &mut joined[half * 2 * shape.in_channels..];
            match start {
                Some(start) => join_row(shape, &x[start..start + row_len], channels, joined),
                None => joined.chunks_mut(channels).for_each(|joined| joined[..2 * shape.in_channels].fill(0.0)),
            }
        }
    }
}

/// Two neighbours of a row to the start of each joined pixel.
#[inline(always)]
fn join_row(shape: &ConvShape, row: &[f32], channels: usize, joined: &mut [f32]) {
    let pair = 2 * shape.in_channels;
    let is_short = pair <= SHORT;
    for (x, joined) in joined.chunks_mut(channels).enumerate() {
        let first = 2 * x as isize - shape.padding[1] as isize;
        let at = first * shape.in_channels as isize;
        if is_short && at >= 0 && at as usize + SHORT <= row.len() {
            joined[..SHORT].copy_from_slice(&row[at as usize..at as usize + SHORT]);
        } else {
            for (i, joined) in joined[..pair].chunks_exact_mut(shape.in_channels).enumerate() {
                match usize::try_from(first + i as isize) {
                    Ok(column) if column < shape.in_width => {
                        joined.copy_from_slice(&row[column * shape.in_channels..(column + 1) * shape.in_channels]);
                    }
                    _ => joined.fill(0.0),
                }
            }
        }
    }
}

/// Calls `work` with the transformed weight, panels `[K / 64][frequency][4 C][width]`.
fn with_u(kernels: Kernels, shape: &ConvShape, weight: Weight<'_>, work: impl FnOnce(&[f32])) {
    let (source, target) = (4 * shape.in_channels, shape.out_channels);
    let depth = shape.in_channels * shape.taps();
    with_scratch(u_len(TILE, [source, target]), |u| {
        let mut transform = |panels: &[f32]| {
            let parts = panels.chunks(PANEL * depth).zip(u.chunks_mut(TILE.frequencies() * u_stride(source, PANEL)));
            for (i, (panel, u)) in parts.enumerate() {
                transform_panel(kernels, shape, panel, panel_width(target, i * PANEL), u);
            }
        };
        match weight {
            Weight::Packed(weight) => transform(weight.panels()),
            Weight::Plain(weight) => {
                let plan = Plan::forward(shape);
                with_scratch(plan.packed_len(), |panels| {
                    plan.pack(kernels, weight, panels);
                    transform(panels);
                });
            }
        }
        work(u);
    });
}

per_isa! {
    /// One panel of `U` from a panel `[tap][C][width]` of the weight.
    fn transform_panel(shape: &ConvShape, panel: &[f32], width: usize, u: &mut [f32]) = transform_panel_body
}

#[inline(always)]
fn transform_panel_body<T: Target>(shape: &ConvShape, panel: &[f32], width: usize, u: &mut [f32]) {
    let [height, kernel_width] = shape.kernel;
    let mut half = [[Lanes::ZERO; 8]; TAPS];
    for source in 0..4 * shape.in_channels {
        let (part, channel) = (source / shape.in_channels, source % shape.in_channels);
        let (y, x) = (part / 2, part % 2);
        for column in (0..width).step_by(LANES) {
            let load = |r: usize, s: usize| {
                let (r, s) = (2 * r + y, 2 * s + x);
                if r < height && s < kernel_width {
                    Lanes::load(&panel[((r * kernel_width + s) * shape.in_channels + channel) * width + column..])
                } else {
                    Lanes::ZERO
                }
            };
            let (stride, u) = (u_stride(4 * shape.in_channels, width), &mut u[source * width + column..]);
            both_ways::<Filter<Five>, Filter<Five>, TAPS, 8, TAPS, 8>(
                load,
                |f, lanes| lanes.store(&mut u[f * stride..]),
                &mut half,
            );
        }
    }
}
