//! The gradient of a frozen convolution block, `out = relu(scale * conv(x) + shift + residual)`, down to the convolution.
//!
//! With `g = grad_out * (out > 0)`, the gradient of the residual, and sums over all pixels of a channel:
//!
//! - `grad shift = sum g`
//! - `grad scale = sum g * conv = (sum g * (out - residual) - shift * sum g) / scale`, for where `g` is not zero,
//!   `out - residual = scale * conv + shift`. So the convolution's result need not be kept.
//! - The gradient of the convolution is `scale * g`. It need not be written: its data gradient is that of `g` with
//!   `scale * weight`, its weight gradient that of `g` times `scale`, both per output channel.
//!
//! Where `scale` is 0, `out` holds nothing of the convolution, and the gradient of the scale cannot be had from it.

use rayon::prelude::*;

use crate::isa::{Isa, Kernels, Target, per_isa};
use crate::out::{self, Out};

/// Pixels summed in `f32`: relative error of a few 1e-7 at most, also for sums of equal signs.
const BLOCK: usize = 64;
/// Most ranges that are summed on their own.
const RANGES: usize = 64;

/// Sums over the pixels of each channel; `g` as the module's documentation has it.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockGradientSums {
    /// Of `g`, `[K]`: the gradient of the shift.
    pub gradient: Vec<f64>,
    /// Of `g * (out - residual)`, `[K]`.
    pub product: Vec<f64>,
}

impl BlockGradientSums {
    /// The gradient of the shift, `sum g`.
    pub fn shift(&self) -> Vec<f32> {
        self.gradient.iter().map(|sum| *sum as f32).collect()
    }

    /// The gradient of the scale, `(sum g * (out - residual) - shift * sum g) / scale`; 0 where `scale` is 0.
    ///
    /// The subtraction costs digits where the shift is large beside `scale * conv`.
    ///
    /// # Panics
    ///
    /// If there is not one scale and one shift per channel.
    pub fn scale(&self, scale: &[f32], shift: &[f32]) -> Vec<f32> {
        assert_eq!([scale.len(), shift.len()], [self.gradient.len(); 2], "one scale and one shift per channel");
        let sums = self.gradient.iter().zip(&self.product);
        let gradient = |((gradient, product), (scale, shift)): ((&f64, &f64), (&f32, &f32))| {
            if *scale == 0.0 { 0.0 } else { ((product - f64::from(*shift) * gradient) / f64::from(*scale)) as f32 }
        };
        sums.zip(scale.iter().zip(shift)).map(gradient).collect()
    }
}

/// `g = grad_out * (out > 0)` and its sums, in one pass: the backward step of a block with a ReLU.
///
/// # Shapes
///
/// `out`, `residual`, `grad_out`, and `g`: channels-last, any length that is a multiple of `channels`.
///
/// # Panics
///
/// If the lengths differ, or `channels` is zero or does not divide them.
pub fn relu_block_gradient(
    out: &[f32],
    residual: Option<&[f32]>,
    grad_out: &[f32],
    channels: usize,
) -> (Vec<f32>, BlockGradientSums) {
    let range = check(out, residual, grad_out, channels);
    let kernels = Kernels::new(Isa::detect());
    let mut sums = Vec::new();
    let write = |g: &mut Out| {
        let parts = out.par_chunks(range).zip(grad_out.par_chunks(range)).zip(g.par_chunks_mut(range)).enumerate();
        let part_sums = parts.map(|(i, ((out, grad_out), g))| {
            let mut sums = vec![0.0; 2 * channels];
            let residual = residual.map(|residual| &residual[i * range..i * range + out.len()]);
            mask_and_add(kernels, out, residual, grad_out, g, &mut sums);
            sums
        });
        sums = part_sums.collect();
    };
    // SAFETY: the three maps are cut alike, and every element of every part is written.
    let g = unsafe { out::filled(out.len(), write) };
    (g, total(sums, channels))
}

/// The sums of a block without a ReLU, where `g` is `grad_out`.
///
/// Shapes and panics as for [`relu_block_gradient`].
pub fn linear_block_gradient(
    out: &[f32],
    residual: Option<&[f32]>,
    grad_out: &[f32],
    channels: usize,
) -> BlockGradientSums {
    let range = check(out, residual, grad_out, channels);
    let kernels = Kernels::new(Isa::detect());
    let parts = out.par_chunks(range).zip(grad_out.par_chunks(range)).enumerate();
    let sums = parts.map(|(i, (out, grad_out))| {
        let mut sums = vec![0.0; 2 * channels];
        let residual = residual.map(|residual| &residual[i * range..i * range + out.len()]);
        add(kernels, out, residual, grad_out, &mut sums);
        sums
    });
    total(sums.collect(), channels)
}

/// Floats of a range that is summed on its own: depends on the shape only, so that the threads change no bit.
fn check(out: &[f32], residual: Option<&[f32]>, grad_out: &[f32], channels: usize) -> usize {
    assert!(channels > 0 && out.len().is_multiple_of(channels), "{} is a multiple of {channels} channels", out.len());
    let residual_len = residual.map_or(out.len(), <[f32]>::len);
    assert_eq!([grad_out.len(), residual_len], [out.len(); 2], "all maps have one shape");
    (out.len() / channels).div_ceil(RANGES).next_multiple_of(BLOCK).max(BLOCK) * channels
}

fn total(parts: Vec<Vec<f64>>, channels: usize) -> BlockGradientSums {
    let mut gradient = vec![0.0; 2 * channels];
    for part in parts {
        for (total, sum) in gradient.iter_mut().zip(part) {
            *total += sum;
        }
    }
    let product = gradient.split_off(channels);
    BlockGradientSums { gradient, product }
}

per_isa! {
    /// Writes `g`; adds to `sums`, `[2][K]`.
    fn mask_and_add(out: &[f32], residual: Option<&[f32]>, grad_out: &[f32], g: &mut Out, sums: &mut [f64])
        = mask_and_add_body
}

per_isa! {
    /// Adds to `sums`, `[2][K]`.
    fn add(out: &[f32], residual: Option<&[f32]>, g: &[f32], sums: &mut [f64]) = add_body
}

/// Block by block: `g` is summed while it is in the first-level cache.
#[inline(always)]
fn mask_and_add_body<T: Target>(
    out: &[f32],
    residual: Option<&[f32]>,
    grad_out: &[f32],
    g: &mut Out,
    sums: &mut [f64],
) {
    let block = BLOCK * (sums.len() / 2);
    let blocks = out.chunks(block).zip(grad_out.chunks(block)).zip(g.chunks_mut(block)).enumerate();
    for (i, ((out, grad_out), g)) in blocks {
        for ((out, grad), g) in out.iter().zip(grad_out).zip(&mut *g) {
            g.write(if *out > 0.0 { *grad } else { 0.0 });
        }
        // SAFETY: the blocks of the three maps have the same length, so all of it has just been written.
        let g = unsafe { g.assume_init_ref() };
        add_body::<T>(out, residual.map(|residual| &residual[i * block..i * block + out.len()]), g, sums);
    }
}

#[inline(always)]
fn add_body<T: Target>(out: &[f32], residual: Option<&[f32]>, g: &[f32], sums: &mut [f64]) {
    let channels = sums.len() / 2;
    let mut block_sums = vec![0.0_f32; 2 * channels];
    let block = BLOCK * channels;
    for (i, (out, g)) in out.chunks(block).zip(g.chunks(block)).enumerate() {
        block_sums.fill(0.0);
        let (gradients, products) = block_sums.split_at_mut(channels);
        let residual = residual.map(|residual| &residual[i * block..i * block + out.len()]);
        for (j, (out, g)) in out.chunks_exact(channels).zip(g.chunks_exact(channels)).enumerate() {
            let block_sums = gradients.iter_mut().zip(&mut *products);
            if let Some(residual) = residual {
                let residual = &residual[j * channels..(j + 1) * channels];
                for (((out, residual), g), (gradient, product)) in out.iter().zip(residual).zip(g).zip(block_sums) {
                    *gradient += g;
                    *product = T::mul_add(*g, out - residual, *product);
                }
            } else {
                for ((out, g), (gradient, product)) in out.iter().zip(g).zip(block_sums) {
                    *gradient += g;
                    *product = T::mul_add(*g, *out, *product);
                }
            }
        }
        for (sum, block) in sums.iter_mut().zip(&block_sums) {
            *sum += f64::from(*block);
        }
    }
}
