//! 3x3 convolutions of many small maps, whose sides are cut into tiles of 6 and of 4 outputs: 14 into 6 + 4 + 4, which have
//! 8 + 6 + 6 inputs, so 400 products per map and channel pair where tiles of one size have 576.
//!
//! There are four kinds of tiles, with a transformed weight each; all maps' tiles of one kind are computed together.

use rayon::prelude::*;

use super::filter::{Direction, transform_weight, u_len};
use super::tiles::{Bands, Finish, Map, Tiling};
use super::{Task, Tile, TileSize, weight_gradient};
use crate::conv::ConvShape;
use crate::conv::epilogue::Epilogue;
use crate::conv::packed_weight::Weight;
use crate::isa::Kernels;
use crate::out::Out;
use crate::scratch::with_scratch;
use crate::stream;

/// Maps of a task, at least: as many tiles of the rarest kind share a pass over its transformed weight.
const MIN_MAPS: usize = 36;
/// Maps of a weight gradient, at least: it is 196 matrices, not 36. At 64 maps it is a tenth faster, at 32 a few percent.
const MIN_MAPS_OF_GRADIENT: usize = 64;

/// Where tiles of six and of four outputs start on a side.
struct Cut {
    sixes: Vec<usize>,
    fours: Vec<usize>,
}

impl Cut {
    /// The cut of `len` outputs with the fewest inputs; the last tile may reach over the end.
    fn new(len: usize) -> Self {
        let fours = |sixes: usize| len.saturating_sub(6 * sixes).div_ceil(4);
        let sixes = (0..=len.div_ceil(6)).min_by_key(|&sixes| 8 * sixes + 6 * fours(sixes)).unwrap_or(0);
        Self {
            sixes: (0..sixes).map(|i| 6 * i).collect(),
            fours: (0..fours(sixes)).map(|i| 6 * sixes + 4 * i).collect(),
        }
    }

    /// Inputs of all tiles.
    fn inputs(&self) -> usize {
        8 * self.sixes.len() + 6 * self.fours.len()
    }
}

/// Whether it is faster than tiles of one size: many maps, a tenth fewer products, and not too many channels for accuracy.
pub(crate) fn is_worth_it(shape: &ConvShape, size: TileSize) -> bool {
    shape.batch >= 2 * MIN_MAPS && TileSize::Six.is_accurate(shape) && has_fewer_products(shape, size)
}

/// The same for the weight gradient, whose error does not depend on the channels.
pub(crate) fn is_worth_it_for_weight_gradient(shape: &ConvShape, size: TileSize) -> bool {
    shape.batch >= MIN_MAPS_OF_GRADIENT && has_fewer_products(shape, size)
}

fn has_fewer_products(shape: &ConvShape, size: TileSize) -> bool {
    let (height, width) = (shape.out_height(), shape.out_width());
    let products = shape.batch * Cut::new(height).inputs() * Cut::new(width).inputs();
    10 * products <= 9 * size.count(shape.batch, height, width) * size.frequencies()
}

/// The outputs that are computed, and what is read for them.
struct Maps<'a> {
    map: Map<'a>,
    height: usize,
    width: usize,
    padding: [usize; 2],
    target: usize,
}

pub(crate) fn forward(
    kernels: Kernels,
    shape: &ConvShape,
    x: &[f32],
    weight: Weight<'_>,
    epilogue: &Epilogue<'_>,
    y: &mut Out,
) {
    let maps = Maps {
        map: Map { data: x, height: shape.in_height, width: shape.in_width, channels: shape.in_channels },
        height: shape.out_height(),
        width: shape.out_width(),
        padding: shape.padding,
        target: shape.out_channels,
    };
    run(kernels, &maps, (weight, Direction::Forward), epilogue, y);
}

pub(crate) fn backward_input(kernels: Kernels, shape: &ConvShape, grad_y: &[f32], weight: &[f32], grad_x: &mut Out) {
    let (height, width) = (shape.out_height(), shape.out_width());
    let maps = Maps {
        map: Map { data: grad_y, height, width, channels: shape.out_channels },
        height: shape.in_height,
        width: shape.in_width,
        padding: shape.padding.map(|padding| 2 - padding),
        target: shape.in_channels,
    };
    run(kernels, &maps, (Weight::Plain(weight), Direction::Backward), &Epilogue::default(), grad_x);
}

/// Of the outputs of some images, a `batch` of so many.
pub(crate) fn backward_weight<const N: usize>(
    kernels: Kernels,
    (batch, images): (usize, Bands<'_>),
    shape: &ConvShape,
    x: &[f32],
    grad_ys: [&[f32]; N],
    grad_weights: [&mut [f32]; N],
) {
    let size = [shape.out_height(), shape.out_width()];
    let cuts = size.map(Cut::new);
    let tilings: Vec<_> = tilings(&cuts, images, size, shape.padding).collect();
    weight_gradient::run(kernels, (batch, &tilings), shape, x, grad_ys, grad_weights);
}

fn run(
    kernels: Kernels,
    maps: &Maps<'_>,
    (weight, direction): (Weight<'_>, Direction),
    epilogue: &Epilogue<'_>,
    y: &mut Out,
) {
    let cuts = [maps.height, maps.width].map(Cut::new);
    let channels = [maps.map.channels, maps.target];
    for tiling in tilings(&cuts, Bands::ALL, [maps.height, maps.width], maps.padding) {
        match weight {
            Weight::Packed(weight) => {
                run_tiles(kernels, maps, tiling, weight.transformed(kernels, tiling.tile), epilogue, y);
            }
            Weight::Plain(weight) => with_scratch(u_len(tiling.tile, channels), |u| {
                transform_weight(kernels, tiling.tile, weight, channels, direction, u);
                run_tiles(kernels, maps, tiling, u, epilogue, y);
            }),
        }
    }
}

/// The tiles of each kind, of outputs of `height x width` whose rows and columns are cut so.
fn tilings<'a>(
    [rows, columns]: &'a [Cut; 2],
    images: Bands<'a>,
    [height, width]: [usize; 2],
    padding: [usize; 2],
) -> impl Iterator<Item = Tiling<'a>> {
    [
        (Tile::F6x3, &rows.sixes, &columns.sixes),
        (Tile::F64x3, &rows.sixes, &columns.fours),
        (Tile::F46x3, &rows.fours, &columns.sixes),
        (Tile::F4x3, &rows.fours, &columns.fours),
    ]
    .into_iter()
    .filter(|(_, tops, lefts)| !tops.is_empty() && !lefts.is_empty())
    .map(move |(tile, tops, lefts)| Tiling {
        bands: Bands { tops: Some(tops), ..images },
        lefts: Some(lefts),
        tile,
        height,
        width,
        padding,
    })
}

/// Computes the tiles of one kind.
fn run_tiles(kernels: Kernels, maps: &Maps<'_>, tiling: Tiling<'_>, u: &[f32], epilogue: &Epilogue<'_>, y: &mut Out) {
    let target = maps.target;
    let pixels = maps.height * maps.width;
    let batch = y.len() / (pixels * target);
    let threads = rayon::current_num_threads();
    let maps_per_task = batch.div_ceil(threads * (batch / (threads * MIN_MAPS)).clamp(1, 8));
    let is_streamed = stream::is_worth_it(y, target);
    y.par_chunks_mut(maps_per_task * pixels * target).enumerate().for_each(|(i, y)| {
        let first_map = i * maps_per_task;
        let start = first_map * pixels * target;
        let epilogue = epilogue.narrow(start, start + y.len());
        let finish = Finish { epilogue, first_pixel: first_map * pixels, is_streamed };
        let last_map = first_map + y.len() / (pixels * target);
        let bands = first_map * tiling.bands_per_image()..last_map * tiling.bands_per_image();
        Task { kernels, tiling, source: maps.map.channels, u, target, finish }.run(maps.map, bands, y);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_cut_without_gaps_into_the_fewest_inputs() {
        for (len, inputs) in [(0, 0), (1, 6), (4, 6), (5, 8), (6, 8), (7, 12), (14, 20), (28, 38)] {
            let cut = Cut::new(len);
            assert_eq!(cut.inputs(), inputs, "{len}");
            let mut end = 0;
            let sides = cut.sixes.iter().map(|&start| (start, 6)).chain(cut.fours.iter().map(|&start| (start, 4)));
            for (start, side) in sides {
                assert_eq!(start, end, "{len}");
                end += side;
            }
            assert!((len..len + 6).contains(&end), "{len}: {end}");
        }
    }
}
