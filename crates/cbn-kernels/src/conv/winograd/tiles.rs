//! The maps of a Winograd convolution cut into tiles, and the transforms of tiles.
//!
//! A tile is 4 x 4 outputs and the 6 x 6 inputs that they read. Tiles are numbered image by image, row by row; a *band* is
//! one row of tiles of one image.

use std::ops::Range;

use super::lanes::{Lanes, both_ways, input, output, output_gradient};
use crate::conv::epilogue::Epilogue;
use crate::conv::microkernel::{LANES, PANEL};
use crate::isa::{Target, per_isa};

/// Outputs of a tile, per side.
pub(super) const SIDE: usize = 4;
/// Frequencies, per side: the inputs of a tile.
pub(super) const REACH: usize = 6;
/// Products per tile and channel pair, where a direct convolution has 16 * 9 = 144.
pub(super) const FREQUENCIES: usize = REACH * REACH;

/// Tiles of all outputs.
pub(crate) fn tile_count(batch: usize, height: usize, width: usize) -> usize {
    batch * height.div_ceil(SIDE) * width.div_ceil(SIDE)
}

/// A channels-last map.
#[derive(Clone, Copy)]
pub(super) struct Map<'a> {
    pub data: &'a [f32],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// How output maps of `height x width` are tiled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    pub height: usize,
    pub width: usize,
    pub padding: [usize; 2],
}

impl Tiling {
    pub fn bands_per_image(&self) -> usize {
        self.height.div_ceil(SIDE)
    }

    pub fn tiles_per_band(&self) -> usize {
        self.width.div_ceil(SIDE)
    }

    /// Image, and the top left output, of a tile.
    #[inline(always)]
    fn position(&self, tile: usize) -> (usize, usize, usize) {
        let (band, x) = (tile / self.tiles_per_band(), tile % self.tiles_per_band());
        (band / self.bands_per_image(), band % self.bands_per_image() * SIDE, x * SIDE)
    }

    /// The first output pixel of a band.
    pub fn first_pixel(&self, band: usize) -> usize {
        let (image, row) = (band / self.bands_per_image(), band % self.bands_per_image() * SIDE);
        (image * self.height + row) * self.width
    }
}

/// Where transformed tiles lie: frequency `f` of tile `t` starts at `f * frequency + t * tile`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strides {
    pub frequency: usize,
    pub tile: usize,
}

impl Strides {
    /// For rows of `channels`; no stride is a power of two, which would put a tile's 36 stores into few cache sets.
    pub fn new(channels: usize, tiles: usize) -> Self {
        let tile = channels.next_multiple_of(2 * LANES) + LANES;
        Self { frequency: tiles * tile + LANES, tile }
    }

    pub fn len(&self) -> usize {
        FREQUENCIES * self.frequency
    }
}

per_isa! {
    /// `V = B^T d B` of the inputs of `tiles`.
    pub(super) fn transform_inputs(map: Map<'_>, tiling: &Tiling, tiles: Range<usize>, strides: Strides, v: &mut [f32])
        = transform_inputs_body
}

per_isa! {
    /// `dM = A dy A^T` of channels `first .. first + width` of `tiles` of the output's gradient; missing channels are zero.
    pub(super) fn transform_output_gradients(
        map: Map<'_>, tiling: &Tiling, tiles: Range<usize>, first: usize, strides: Strides, dm: &mut [f32],
    ) = transform_output_gradients_body
}

per_isa! {
    /// `y = A^T M A`, finished, to channels `first ..` of `y`, which starts with output pixel `first_pixel`.
    pub(super) fn transform_outputs(
        m: &[f32], strides: Strides, tiling: &Tiling, tiles: Range<usize>, epilogue: &Epilogue<'_>,
        channels: (usize, usize, usize), first_pixel: usize, y: &mut [f32],
    ) = transform_outputs_body
}

#[inline(always)]
fn transform_inputs_body<T: Target>(
    map: Map<'_>,
    tiling: &Tiling,
    tiles: Range<usize>,
    strides: Strides,
    v: &mut [f32],
) {
    for (i, tile) in tiles.enumerate() {
        let (image, y, x) = tiling.position(tile);
        let corner = [y as isize - tiling.padding[0] as isize, x as isize - tiling.padding[1] as isize];
        let pixels = pixels::<REACH>(map, image, corner);
        for c in (0..map.channels).step_by(LANES) {
            let square = load_square(map, &pixels, c);
            store_square(both_ways(square, input), strides, &mut v[i * strides.tile + c..]);
        }
    }
}

#[inline(always)]
fn transform_output_gradients_body<T: Target>(
    map: Map<'_>,
    tiling: &Tiling,
    tiles: Range<usize>,
    first: usize,
    strides: Strides,
    dm: &mut [f32],
) {
    for (i, tile) in tiles.enumerate() {
        let (image, y, x) = tiling.position(tile);
        let pixels = pixels::<SIDE>(map, image, [y as isize, x as isize]);
        for c in (0..strides.tile).step_by(LANES) {
            let square = load_square(map, &pixels, first + c);
            store_square(both_ways(square, output_gradient), strides, &mut dm[i * strides.tile + c..]);
        }
    }
}

/// Where the pixels of a square start in the map; `None` outside it.
#[inline(always)]
fn pixels<const N: usize>(map: Map<'_>, image: usize, corner: [isize; 2]) -> [[Option<usize>; N]; N] {
    let mut pixels = [[None; N]; N];
    for (i, row) in pixels.iter_mut().enumerate() {
        let y = corner[0] + i as isize;
        for (j, pixel) in row.iter_mut().enumerate() {
            let x = corner[1] + j as isize;
            if y >= 0 && y < map.height as isize && x >= 0 && x < map.width as isize {
                *pixel = Some(((image * map.height + y as usize) * map.width + x as usize) * map.channels);
            }
        }
    }
    pixels
}

#[inline(always)]
fn load_square<const N: usize>(map: Map<'_>, pixels: &[[Option<usize>; N]; N], channel: usize) -> [[Lanes; N]; N] {
    let mut square = [[Lanes::ZERO; N]; N];
    if channel + LANES <= map.channels {
        for (row, pixels) in square.iter_mut().zip(pixels) {
            for (lanes, pixel) in row.iter_mut().zip(pixels) {
                if let Some(pixel) = pixel {
                    *lanes = Lanes::load(&map.data[pixel + channel..pixel + channel + LANES]);
                }
            }
        }
    } else if channel < map.channels {
        for (row, pixels) in square.iter_mut().zip(pixels) {
            for (lanes, pixel) in row.iter_mut().zip(pixels) {
                if let Some(pixel) = pixel {
                    *lanes = Lanes::load_part(&map.data[pixel + channel..pixel + map.channels]);
                }
            }
        }
    }
    square
}

#[inline(always)]
fn store_square(square: [[Lanes; REACH]; REACH], strides: Strides, out: &mut [f32]) {
    for (f, lanes) in square.into_iter().flatten().enumerate() {
        lanes.store(&mut out[f * strides.frequency..f * strides.frequency + LANES]);
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the body of a `per_isa` function takes what the function takes")]
fn transform_outputs_body<T: Target>(
    m: &[f32],
    strides: Strides,
    tiling: &Tiling,
    tiles: Range<usize>,
    epilogue: &Epilogue<'_>,
    (first, count, all): (usize, usize, usize),
    first_pixel: usize,
    y: &mut [f32],
) {
    for (i, tile) in tiles.enumerate() {
        let mut finished = [[0.0; PANEL]; SIDE * SIDE];
        for c in (0..strides.tile).step_by(LANES) {
            let mut square = [[Lanes::ZERO; REACH]; REACH];
            for (f, lanes) in square.iter_mut().flatten().enumerate() {
                *lanes = Lanes::load(&m[f * strides.frequency + i * strides.tile + c..]);
            }
            for (lanes, row) in both_ways(square, output).into_iter().flatten().zip(&mut finished) {
                lanes.store(&mut row[c..c + LANES]);
            }
        }
        let (image, top, left) = tiling.position(tile);
        for (j, sums) in finished.iter_mut().enumerate() {
            let (row, column) = (top + j / SIDE, left + j % SIDE);
            if row < tiling.height && column < tiling.width {
                let pixel = (image * tiling.height + row) * tiling.width + column - first_pixel;
                let start = pixel * all + first;
                epilogue.write(sums, first, start, &mut y[start..start + count]);
            }
        }
    }
}
