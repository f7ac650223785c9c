//! The maps of a Winograd convolution cut into tiles, and the transforms of tiles.
//!
//! A tile is a square of outputs, [`Tile`], and the inputs that they read. Tiles are numbered image by image, row by row; a *band* is
//! one row of tiles of one image.

use std::ops::Range;

use super::fourier::{self, InputSpectra, OutputGradientSpectra, OutputSums};
use super::lanes::{Lanes, Separable, Square, Transform2d};
use super::tile_size::{HAS_3_TAPS, Tile};
use super::transforms::{Five, Four, Input, Output, OutputGradient, Six};
use crate::conv::epilogue::Epilogue;
use crate::conv::microkernel::{LANES, PANEL};
use crate::isa::{Target, per_isa, prefetch};
use crate::out::Out;
use crate::stream::Stream;

/// A channels-last map.
#[derive(Clone, Copy)]
pub(super) struct Map<'a> {
    pub data: &'a [f32],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// The bands that are tiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bands<'a> {
    /// The first image.
    pub first: usize,
    /// Every n-th image from there on.
    pub every: usize,
    /// The rows of their topmost outputs, if it is not all of each image that is tiled.
    pub tops: Option<&'a [usize]>,
}

impl Bands<'_> {
    pub const ALL: Self = Self { first: 0, every: 1, tops: None };
}

/// How output maps of `height x width` are tiled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling<'a> {
    pub bands: Bands<'a>,
    /// Where the tiles of a band start, if it is not all of it that is tiled.
    pub lefts: Option<&'a [usize]>,
    pub tile: Tile,
    pub height: usize,
    pub width: usize,
    /// Of the convolution, where the tile leaves it to the map.
    pub padding: [usize; 2],
}

impl<'a> Tiling<'a> {
    /// All tiles of some bands of outputs of `height x width`.
    pub fn new(tile: Tile, bands: Bands<'a>, [height, width]: [usize; 2], padding: [usize; 2]) -> Self {
        // A whole map's filter has the padding in it.
        let padding = if tile == Tile::Whole { [0, 0] } else { padding };
        Self { bands, lefts: None, tile, height, width, padding }
    }

    pub fn bands_per_image(&self) -> usize {
        self.bands.tops.map_or_else(|| self.height.div_ceil(self.tile.sides()[0]), <[usize]>::len)
    }

    pub fn tiles_per_band(&self) -> usize {
        self.lefts.map_or_else(|| self.width.div_ceil(self.tile.sides()[1]), <[usize]>::len)
    }

    /// Image, and the top left output, of a tile.
    #[inline(always)]
    fn position(&self, tile: usize) -> (usize, usize, usize) {
        let (band, x) = (tile / self.tiles_per_band(), tile % self.tiles_per_band());
        let (image, band) = (band / self.bands_per_image(), band % self.bands_per_image());
        let [height, width] = self.tile.sides();
        let left = self.lefts.map_or(x * width, |lefts| lefts[x]);
        let top = self.bands.tops.map_or(band * height, |tops| tops[band]);
        (self.bands.first + image * self.bands.every, top, left)
    }

    /// The first output pixel of a band, where all are tiled.
    pub fn first_pixel(&self, band: usize) -> usize {
        let (image, row) = (band / self.bands_per_image(), band % self.bands_per_image() * self.tile.sides()[0]);
        (image * self.height + row) * self.width
    }
}

/// What happens to the outputs of a task.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    /// Narrowed to the task's part of the output.
    pub epilogue: Epilogue<'a>,
    /// The output pixel that the task's part of the output starts with.
    pub first_pixel: usize,
    /// Whether they are written past the caches.
    pub is_streamed: bool,
}

/// Where transformed tiles lie: frequency `f` of tile `t` starts at `f * frequency + t * tile`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strides {
    pub frequency: usize,
    pub tile: usize,
}

impl Strides {
    /// For rows of `channels`; no stride is a power of two, which would put a tile's stores into few cache sets.
    pub fn new(channels: usize, tiles: usize) -> Self {
        let tile = channels.next_multiple_of(2 * LANES) + LANES;
        Self { frequency: tiles * tile + LANES, tile }
    }
}

per_isa! {
    /// `V = B^T d B` of some channels of the inputs of `tiles`.
    pub(super) fn transform_inputs(
        map: (Map<'_>, Range<usize>), tiling: &Tiling<'_>, tiles: Range<usize>, strides: Strides, v: &mut [f32],
    ) = transform_inputs_body
}

per_isa! {
    /// `dM = A dy A^T` of channels `first .. first + width` of `tiles` of the output's gradient; missing channels are zero.
    pub(super) fn transform_output_gradients(
        map: Map<'_>, tiling: &Tiling<'_>, tiles: Range<usize>, first: usize, strides: Strides, dm: &mut [f32],
    ) = transform_output_gradients_body
}

per_isa! {
    /// `y = A^T M A`, finished, to channels (first, count, of all) of `y`.
    pub(super) fn transform_outputs(
        m: &[f32], strides: Strides, tiling: &Tiling<'_>, tiles: Range<usize>, finish: &Finish<'_>,
        channels: (usize, usize, usize), y: &mut Out,
    ) = transform_outputs_body
}

#[inline(always)]
fn transform_inputs_body<T: Target>(
    map: (Map<'_>, Range<usize>),
    tiling: &Tiling<'_>,
    tiles: Range<usize>,
    strides: Strides,
    v: &mut [f32],
) {
    match tiling.tile {
        Tile::F4x3 => inputs_of::<Square<Input<Four>, 6>, 6, 6>(map, tiling, tiles, strides, v),
        Tile::F6x3 => inputs_of::<Square<Input<Six>, 8>, 8, 8>(map, tiling, tiles, strides, v),
        Tile::F46x3 => inputs_of::<Separable<Input<Four>, Input<Six>, 6, 8>, 6, 8>(map, tiling, tiles, strides, v),
        Tile::F64x3 => inputs_of::<Separable<Input<Six>, Input<Four>, 8, 6>, 8, 6>(map, tiling, tiles, strides, v),
        Tile::Whole => inputs_of::<InputSpectra, 7, 7>(map, tiling, tiles, strides, v),
        Tile::F5x4 => inputs_of::<Square<Input<Five>, 8>, 8, 8>(map, tiling, tiles, strides, v),
    }
}

#[inline(always)]
fn inputs_of<F: Transform2d<N, P>, const N: usize, const P: usize>(
    (map, channels): (Map<'_>, Range<usize>),
    tiling: &Tiling<'_>,
    tiles: Range<usize>,
    strides: Strides,
    v: &mut [f32],
) {
    let rectangle = |tile: usize| {
        let (image, y, x) = tiling.position(tile);
        let corner = [y as isize - tiling.padding[0] as isize, x as isize - tiling.padding[1] as isize];
        Rectangle::<N, P>::new(map, image, corner)
    };
    // Those that a tile and its right neighbour have in common.
    let common_columns = P - tiling.tile.sides()[1];
    let mut half = F::EMPTY;
    for (i, tile) in tiles.enumerate() {
        let (rectangle, next) = (rectangle(tile), rectangle(tile + 1));
        for c in channels.clone().step_by(LANES) {
            next.prefetch(map, common_columns, c);
            let out = &mut v[i * strides.tile + c - channels.start..];
            let store = |f: usize, lanes: Lanes| {
                lanes.store(&mut out[f * strides.frequency..]);
                prefetch(out, f * strides.frequency + LANES);
            };
            rectangle.transform::<F>(map, c, store, &mut half);
        }
    }
}

#[inline(always)]
fn transform_output_gradients_body<T: Target>(
    map: Map<'_>,
    tiling: &Tiling<'_>,
    tiles: Range<usize>,
    first: usize,
    strides: Strides,
    dm: &mut [f32],
) {
    match tiling.tile {
        Tile::F4x3 => gradients_of::<Square<OutputGradient<Four>, 6>, 4, 4>(map, tiling, tiles, first, strides, dm),
        Tile::F6x3 => gradients_of::<Square<OutputGradient<Six>, 8>, 6, 6>(map, tiling, tiles, first, strides, dm),
        Tile::F46x3 => gradients_of::<Separable<OutputGradient<Four>, OutputGradient<Six>, 6, 8>, 4, 6>(
            map, tiling, tiles, first, strides, dm,
        ),
        Tile::F64x3 => gradients_of::<Separable<OutputGradient<Six>, OutputGradient<Four>, 8, 6>, 6, 4>(
            map, tiling, tiles, first, strides, dm,
        ),
        Tile::Whole => gradients_of::<OutputGradientSpectra, 7, 7>(map, tiling, tiles, first, strides, dm),
        Tile::F5x4 => unreachable!("{HAS_3_TAPS}"),
    }
}

#[inline(always)]
fn gradients_of<F: Transform2d<N, P>, const N: usize, const P: usize>(
    map: Map<'_>,
    tiling: &Tiling<'_>,
    tiles: Range<usize>,
    first: usize,
    strides: Strides,
    dm: &mut [f32],
) {
    let rectangle = |tile: usize| {
        let (image, y, x) = tiling.position(tile);
        Rectangle::<N, P>::new(map, image, [y as isize, x as isize])
    };
    let mut half = F::EMPTY;
    for (i, tile) in tiles.enumerate() {
        let (rectangle, next) = (rectangle(tile), rectangle(tile + 1));
        for c in (0..strides.tile).step_by(LANES) {
            next.prefetch(map, 0, first + c);
            let out = &mut dm[i * strides.tile + c..];
            let store = |f: usize, lanes: Lanes| {
                lanes.store(&mut out[f * strides.frequency..]);
                prefetch(out, f * strides.frequency + LANES);
            };
            rectangle.transform::<F>(map, first + c, store, &mut half);
        }
    }
}

/// N x P pixels of a map.
enum Rectangle<const N: usize, const P: usize> {
    /// All on the map: where the first starts.
    Inside(usize),
    /// Where each starts, or the nearest that is on the map; and all ones, or zeros where the pixel is outside.
    Across([[usize; P]; N], [[u32; P]; N]),
}

impl<const N: usize, const P: usize> Rectangle<N, P> {
    /// The rectangle whose top left pixel is `corner`.
    #[inline(always)]
    fn new(map: Map<'_>, image: usize, corner: [isize; 2]) -> Self {
        let start = |y: isize, x: isize| ((image * map.height + y as usize) * map.width + x as usize) * map.channels;
        let last = [map.height as isize - 1, map.width as isize - 1];
        let end = [corner[0] + N as isize - 1, corner[1] + P as isize - 1];
        if corner[0] >= 0 && corner[1] >= 0 && end[0] <= last[0] && end[1] <= last[1] {
            return Self::Inside(start(corner[0], corner[1]));
        }
        let (mut starts, mut masks) = ([[0; P]; N], [[0; P]; N]);
        for i in 0..N {
            let y = corner[0] + i as isize;
            let nearest_y = y.min(last[0]).max(0);
            for j in 0..P {
                let x = corner[1] + j as isize;
                let nearest_x = x.min(last[1]).max(0);
                starts[i][j] = start(nearest_y, nearest_x);
                masks[i][j] = if y == nearest_y && x == nearest_x { u32::MAX } else { 0 };
            }
        }
        Self::Across(starts, masks)
    }

    /// Asks for the rectangle's columns from `first_column` on, of 16 channels: waiting for them is what a transform costs.
    #[inline(always)]
    fn prefetch(&self, map: Map<'_>, first_column: usize, channel: usize) {
        for y in 0..N {
            for x in first_column..P {
                let start = match self {
                    Self::Inside(start) => start + (y * map.width + x) * map.channels,
                    Self::Across(starts, _) => starts[y][x],
                };
                prefetch(map.data, start + channel);
            }
        }
    }

    /// Transforms 16 channels of the rectangle; channels that the map does not have are zero.
    #[inline(always)]
    fn transform<F: Transform2d<N, P>>(
        &self,
        map: Map<'_>,
        channel: usize,
        store: impl FnMut(usize, Lanes),
        half: &mut F::Half,
    ) {
        let is_whole = channel + LANES <= map.channels && !map.data.is_empty();
        match self {
            Self::Inside(start) if is_whole => {
                let load = |y, x| Lanes::load(&map.data[start + (y * map.width + x) * map.channels + channel..]);
                F::apply(load, store, half);
            }
            Self::Across(starts, masks) if is_whole => {
                let load = |y: usize, x: usize| Lanes::load(&map.data[starts[y][x] + channel..]).and(masks[y][x]);
                F::apply(load, store, half);
            }
            Self::Inside(start) => {
                let start = |y, x| start + (y * map.width + x) * map.channels;
                F::apply(|y, x| load_part(map, start(y, x), channel), store, half);
            }
            Self::Across(starts, masks) => {
                let load = |y: usize, x: usize| load_part(map, starts[y][x], channel).and(masks[y][x]);
                F::apply(load, store, half);
            }
        }
    }
}

/// The channels from `channel` on that the map's pixel has, then zeros.
#[inline(always)]
fn load_part(map: Map<'_>, start: usize, channel: usize) -> Lanes {
    let values = map.data.get(start + channel..start + map.channels).unwrap_or_default();
    Lanes::load_part(values)
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the body of a `per_isa` function takes what the function takes")]
fn transform_outputs_body<T: Target>(
    m: &[f32],
    strides: Strides,
    tiling: &Tiling<'_>,
    tiles: Range<usize>,
    finish: &Finish<'_>,
    channels: (usize, usize, usize),
    y: &mut Out,
) {
    match tiling.tile {
        Tile::F4x3 => {
            outputs_of::<T, Square<Output<Four>, 4>, 6, 6, 4, 4>(m, strides, tiling, tiles, finish, channels, y);
        }
        Tile::F6x3 => {
            outputs_of::<T, Square<Output<Six>, 6>, 8, 8, 6, 6>(m, strides, tiling, tiles, finish, channels, y);
        }
        Tile::F46x3 => outputs_of::<T, Separable<Output<Four>, Output<Six>, 4, 6>, 6, 8, 4, 6>(
            m, strides, tiling, tiles, finish, channels, y,
        ),
        Tile::F64x3 => outputs_of::<T, Separable<Output<Six>, Output<Four>, 6, 4>, 8, 6, 6, 4>(
            m, strides, tiling, tiles, finish, channels, y,
        ),
        Tile::Whole => {
            outputs_of::<T, OutputSums, 1, { fourier::PRODUCTS }, 7, 7>(m, strides, tiling, tiles, finish, channels, y)
        }
        Tile::F5x4 => {
            outputs_of::<T, Square<Output<Five>, 5>, 8, 8, 5, 5>(m, strides, tiling, tiles, finish, channels, y);
        }
    }
}

/// From N x P products to M x Q outputs of each tile.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "those of `transform_outputs`")]
fn outputs_of<T: Target, F, const N: usize, const P: usize, const M: usize, const Q: usize>(
    m: &[f32],
    strides: Strides,
    tiling: &Tiling<'_>,
    tiles: Range<usize>,
    finish: &Finish<'_>,
    (first, count, all): (usize, usize, usize),
    y: &mut Out,
) where
    F: Transform2d<N, P>,
{
    let Finish { epilogue, first_pixel, is_streamed } = *finish;
    let mut half = F::EMPTY;
    let mut finished = [[[0.0; PANEL]; Q]; M];
    let stream = is_streamed.then_some(Stream);
    for (i, tile) in tiles.enumerate() {
        for c in (0..strides.tile).step_by(LANES) {
            let m = &m[i * strides.tile + c..];
            let load = |y, x| Lanes::load(&m[(y * P + x) * strides.frequency..]);
            let store = |pixel: usize, lanes: Lanes| lanes.store(&mut finished.as_flattened_mut()[pixel][c..c + LANES]);
            F::apply(load, store, &mut half);
        }
        let (image, top, left) = tiling.position(tile);
        for (j, sums) in finished.as_flattened_mut().iter_mut().enumerate() {
            let (row, column) = (top + j / Q, left + j % Q);
            if row < tiling.height && column < tiling.width {
                let pixel = (image * tiling.height + row) * tiling.width + column - first_pixel;
                let start = pixel * all + first;
                // A whole panel has no loop over its registers.
                if count == PANEL {
                    epilogue.finish::<T>(sums, first, start, (stream.as_ref(), &mut y[start..start + PANEL]));
                } else {
                    epilogue.finish::<T>(&sums[..count], first, start, (stream.as_ref(), &mut y[start..start + count]));
                }
            }
        }
    }
}
