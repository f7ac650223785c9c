//! The weight gradient of some output positions of a convolution.

use rayon::prelude::*;

use super::winograd::{self, Bands, Tile};
use super::{Algorithm, ConvShape, Method, TileSize};
use crate::isa::{Isa, Kernels};
use crate::scratch::with_scratch;

/// Output positions of a convolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// Those of every n-th image.
    Images {
        /// The first image.
        first: usize,
        /// n, at least 1.
        every: usize,
    },
    /// In each image some strips of rows; they may overlap, and the positions in two of them count twice.
    Strips {
        /// The topmost row of each.
        firsts: Vec<usize>,
        /// Rows of each.
        rows: usize,
    },
}

impl Sample {
    /// The convolution of the sample alone, each strip an image of its own. What a strip reads includes vertical padding.
    pub fn shape(&self, shape: &ConvShape) -> ConvShape {
        match self {
            Self::Images { first, every } => {
                ConvShape { batch: shape.batch.saturating_sub(*first).div_ceil(*every), ..*shape }
            }
            Self::Strips { firsts, rows } => ConvShape {
                batch: shape.batch * firsts.len(),
                in_height: (rows - 1) * shape.stride[0] + shape.dilation[0] * (shape.kernel[0] - 1) + 1,
                padding: [0, shape.padding[1]],
                ..*shape
            },
        }
    }

    /// # Panics
    ///
    /// If a strip does not lie on the output.
    fn check(&self, shape: &ConvShape) {
        match self {
            Self::Images { every, .. } => assert!(*every > 0, "every n-th image is taken, so n is at least 1"),
            Self::Strips { firsts, rows } => {
                let are_inside = *rows > 0 && firsts.iter().all(|first| first + rows <= shape.out_height());
                assert!(are_inside, "{rows} rows from each of {firsts:?} on, of {}", shape.out_height());
            }
        }
    }

    /// Image and first row of each part of the output.
    fn parts(&self, shape: &ConvShape) -> Vec<(usize, usize)> {
        match self {
            Self::Images { first, every } => (*first..shape.batch).step_by(*every).map(|image| (image, 0)).collect(),
            Self::Strips { firsts, .. } => {
                (0..shape.batch).flat_map(|image| firsts.iter().map(move |&first| (image, first))).collect()
            }
        }
    }
}

/// [`conv2d_backward_weight`](super::conv2d_backward_weight) of the sampled positions alone.
///
/// Tiles of Winograd and whole maps are read where they lie, if a strip is as high as a tile; else the sample is copied.
///
/// # Panics
///
/// If a length does not fit the shape, or a strip does not lie on the output.
pub fn conv2d_backward_weight_of_sample(
    shape: &ConvShape,
    x: &[f32],
    grad_y: &[f32],
    sample: &Sample,
    grad_weight: &mut [f32],
) {
    shape.check();
    let expected = [shape.input_len(), shape.weight_len(), shape.output_len()];
    assert_eq!(
        [x.len(), grad_weight.len(), grad_y.len()],
        expected,
        "lengths of input, weight and output of {shape:?}"
    );
    sample.check(shape);
    let alone = sample.shape(shape);
    let kernels = Kernels::new(Isa::detect());
    let is_empty = alone.output_len() == 0 || alone.input_len() == 0 || alone.weight_len() == 0;
    let algorithm = Algorithm::choose_for_weight_gradient(&alone);
    let in_place = match (algorithm, sample) {
        _ if is_empty => None,
        (Algorithm::Winograd(size), Sample::Images { .. }) => Some(size.tile()),
        (Algorithm::Fourier, Sample::Images { .. }) => Some(Tile::Whole),
        (Algorithm::Winograd(_), Sample::Strips { rows, .. }) => TileSize::of_side(*rows).map(TileSize::tile),
        _ => None,
    };
    let tiled = match sample {
        Sample::Images { first, every } => (alone.batch, Bands { first: *first, every: *every, tops: None }),
        Sample::Strips { firsts, .. } => (shape.batch, Bands { tops: Some(firsts), ..Bands::ALL }),
    };
    match (in_place, algorithm, sample) {
        (Some(tile), ..) => winograd::backward_weight((kernels, tile), tiled, shape, x, [grad_y], [grad_weight]),
        (None, Algorithm::MixedWinograd, Sample::Images { .. }) if !is_empty => {
            winograd::mixed::backward_weight(kernels, tiled, shape, x, [grad_y], [grad_weight]);
        }
        _ => backward_weight_of_copies(shape, x, grad_y, sample, grad_weight),
    }
}

fn backward_weight_of_copies(shape: &ConvShape, x: &[f32], grad_y: &[f32], sample: &Sample, grad_weight: &mut [f32]) {
    let alone = sample.shape(shape);
    let parts = sample.parts(shape);
    let first_read = |&(image, first): &(usize, usize)| {
        let padding = shape.padding[0] - alone.padding[0];
        (image, (first * shape.stride[0]) as isize - padding as isize)
    };
    let read: Vec<_> = parts.iter().map(first_read).collect();
    let written: Vec<_> = parts.iter().map(|&(image, first)| (image, first as isize)).collect();
    with_scratch(alone.input_len(), |x_parts| {
        copy_rows((x, shape.in_height), shape.in_width * shape.in_channels, &read, alone.in_height, x_parts);
        with_scratch(alone.output_len(), |y_parts| {
            let row_len = shape.out_width() * shape.out_channels;
            copy_rows((grad_y, shape.out_height()), row_len, &written, alone.out_height(), y_parts);
            let method = Method::best_for_weight_gradient(&alone);
            method.backward_weight(&alone, x_parts, y_parts, grad_weight);
        });
    });
}

/// Copies `rows` rows from each of `starts`, image and row, of a map of some height; rows that it does not have are zero.
fn copy_rows((map, height): (&[f32], usize), row_len: usize, starts: &[(usize, isize)], rows: usize, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    out.par_chunks_mut(row_len).enumerate().for_each(|(i, out)| {
        let (image, start) = starts[i / rows];
        match usize::try_from(start + (i % rows) as isize) {
            Ok(row) if row < height => out.copy_from_slice(&map[(image * height + row) * row_len..][..row_len]),
            _ => out.fill(0.0),
        }
    });
}
