//! What a norm needs of a map: per-channel sums, and per-channel affine functions, each in one pass over memory.
//!
//! Maps are channels-last: any length that is a multiple of `channels`. Sums are taken in `f32` over 64 pixels at a time and
//! in `f64` from there on, over ranges of pixels that depend on the length only, so that the number of threads changes no bit.

use rayon::prelude::*;

use crate::isa::{Isa, Kernels, Target, per_isa};
use crate::out::{self, Out};

/// Pixels summed in `f32`: relative error of a few 1e-7 at most, also for sums of equal signs.
const BLOCK: usize = 64;
/// Most ranges that are summed on their own.
const RANGES: usize = 64;

/// Per channel, the mean and the biased variance.
///
/// Sums are taken of the distance to the channel's first value, so that a mean far from zero costs the variance no digits.
///
/// # Panics
///
/// If `channels` is zero or does not divide the length.
pub fn channel_moments(y: &[f32], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let pixels = y.len() as f64 / channels as f64;
    let first = if y.is_empty() { vec![0.0; channels] } else { y[..channels].to_vec() };
    let (sums, squares) = product_sums([y, y], [&first, &first]);
    let distance = sums.iter().map(|sum| sum / pixels);
    let mean = distance.clone().zip(&first).map(|(distance, first)| (f64::from(*first) + distance) as f32).collect();
    let var = distance.zip(squares).map(|(distance, squares)| (squares / pixels - distance * distance).max(0.0) as f32);
    // `max` would turn a NaN into 0.
    let var = var.zip(&sums).map(|(var, sum)| if sum.is_finite() { var } else { f32::NAN }).collect();
    (mean, var)
}

/// Where a ReLU behind a norm clipped: where `scale * y + shift`, per channel, is not positive. The bits are those of [`affine`].
#[derive(Clone, Copy, Debug)]
pub struct Clipped<'a> {
    /// `[channels]`.
    pub scale: &'a [f32],
    /// `[channels]`.
    pub shift: &'a [f32],
}

/// Per channel, the sums of `grad` and of `grad * (y - mean)`: what the gradient of a norm needs.
///
/// Where the ReLU clipped, `grad` counts as 0.
///
/// # Panics
///
/// If the lengths differ, or there are no channels or they do not divide them.
pub fn norm_backward_sums(y: &[f32], grad: &[f32], mean: &[f32], relu: Option<Clipped<'_>>) -> (Vec<f32>, Vec<f32>) {
    let narrow = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect();
    let (sums, products) = match relu {
        None => product_sums([grad, y], [&vec![0.0; mean.len()], mean]),
        Some(Clipped { scale, shift }) => range_sums([y, grad], mean.len(), |kernels, y, grad, sums| {
            add_clipped_products(kernels, y, grad, mean, [scale, shift], sums);
        }),
    };
    (narrow(sums), narrow(products))
}

/// `scale * x + shift` per channel, negative results zero if `relu`.
///
/// # Panics
///
/// If the lengths do not fit.
pub fn affine(x: &[f32], scale: &[f32], shift: &[f32], relu: bool) -> Vec<f32> {
    let kernels = Kernels::new(Isa::detect());
    let write = |out: &mut Out| {
        for_each_part(scale, shift, out, |start, out| {
            affine_part(kernels, &x[start..start + out.len()], scale, shift, relu, out);
        });
    };
    // SAFETY: the parts are all of the output and whole pixels, of which every channel is written.
    unsafe { out::filled(x.len(), write) }
}

/// `y = scale * y + shift` per channel, negative results zero if `relu`.
///
/// # Panics
///
/// If the lengths do not fit.
pub fn affine_in_place(y: &mut [f32], scale: &[f32], shift: &[f32], relu: bool) {
    let kernels = Kernels::new(Isa::detect());
    for_each_part(scale, shift, y, |_, y: &mut [f32]| affine_part_in_place(kernels, scale, shift, relu, y));
}

/// `of_grad * grad + of_y * (y - origin) + constant` per channel: the gradient of a norm with regard to its input.
///
/// `factors` are of_grad, of_y, origin and constant, `[channels]` each. Near the mean as origin, no digits are lost where it is large.
/// Where the ReLU clipped, `grad` counts as 0.
///
/// # Panics
///
/// If the lengths do not fit.
pub fn norm_backward_apply(y: &[f32], grad: &[f32], factors: [&[f32]; 4], relu: Option<Clipped<'_>>) -> Vec<f32> {
    assert_eq!(y.len(), grad.len(), "both maps have one shape");
    let [of_grad, of_y, origin, constant] = factors;
    assert_eq!([of_y.len(), origin.len()], [of_grad.len(); 2], "one factor per channel");
    if let Some(Clipped { scale, shift }) = relu {
        assert_eq!([scale.len(), shift.len()], [of_grad.len(); 2], "one scale and one shift per channel");
    }
    let kernels = Kernels::new(Isa::detect());
    let write = |out: &mut Out| {
        for_each_part(of_grad, constant, out, |start, out| {
            let part = start..start + out.len();
            let (y, grad) = (&y[part.clone()], &grad[part]);
            match relu {
                None => combine_part(kernels, y, grad, factors, out),
                Some(Clipped { scale, shift }) => combine_clipped_part(kernels, y, grad, factors, [scale, shift], out),
            }
        });
    };
    // SAFETY: the parts are all of the output and whole pixels, of which every channel is written.
    unsafe { out::filled(y.len(), write) }
}

/// Splits `out` into parts of whole pixels, with the index that each starts at.
fn for_each_part<T: Send>(scale: &[f32], shift: &[f32], out: &mut [T], work: impl Fn(usize, &mut [T]) + Sync) {
    /// Elements of a part: 256 KiB.
    const PART: usize = 64 * 1024;
    let channels = scale.len();
    assert_eq!(shift.len(), channels, "one scale and one shift per channel");
    if out.is_empty() {
        return;
    }
    assert!(channels > 0 && out.len().is_multiple_of(channels), "{} is a multiple of {channels} channels", out.len());
    let part = (PART / channels).max(1) * channels;
    if out.len() <= part {
        work(0, out);
    } else {
        out.par_chunks_mut(part).enumerate().for_each(|(i, out)| work(i * part, out));
    }
}

/// Per channel, the sums of `a - origin_a` and of `(a - origin_a) * (b - origin_b)`; the origins are `[channels]`.
fn product_sums([a, b]: [&[f32]; 2], origins: [&[f32]; 2]) -> (Vec<f64>, Vec<f64>) {
    range_sums([a, b], origins[0].len(), |kernels, a, b, sums| add_products(kernels, a, b, origins, sums))
}

/// Two sums per channel, `add`ed up over ranges of both maps.
fn range_sums(
    [a, b]: [&[f32]; 2],
    channels: usize,
    add: impl Fn(Kernels, &[f32], &[f32], &mut [f64]) + Sync,
) -> (Vec<f64>, Vec<f64>) {
    assert_eq!(a.len(), b.len(), "both maps have one shape");
    assert!(channels > 0 && a.len().is_multiple_of(channels), "{} is a multiple of {channels} channels", a.len());
    let kernels = Kernels::new(Isa::detect());
    let range = (a.len() / channels).div_ceil(RANGES).next_multiple_of(BLOCK).max(BLOCK) * channels;
    let mut totals = vec![0.0; 2 * channels];
    if a.len() <= range {
        // Small maps are many in small networks: waking a thread would cost more than the sums.
        add(kernels, a, b, &mut totals);
    } else {
        let parts = a.par_chunks(range).zip(b.par_chunks(range)).map(|(a, b)| {
            let mut sums = vec![0.0; 2 * channels];
            add(kernels, a, b, &mut sums);
            sums
        });
        for part in parts.collect::<Vec<Vec<f64>>>() {
            for (total, sum) in totals.iter_mut().zip(part) {
                *total += sum;
            }
        }
    }
    let products = totals.split_off(channels);
    (totals, products)
}

per_isa! {
    /// Adds to `sums[0]` the sums of `grad` where the ReLU did not clip, to `sums[1]` those of its products with `y - mean`.
    fn add_clipped_products(y: &[f32], grad: &[f32], mean: &[f32], affine: [&[f32]; 2], sums: &mut [f64]) =
        add_clipped_products_body
}

per_isa! {
    /// Adds to `sums[0]` the sums of `a`, to `sums[1]` those of `a * b`, both less their origins; `sums` is `[2][channels]`.
    fn add_products(a: &[f32], b: &[f32], origins: [&[f32]; 2], sums: &mut [f64]) = add_products_body
}

per_isa! {
    fn affine_part(x: &[f32], scale: &[f32], shift: &[f32], relu: bool, out: &mut Out) = affine_part_body
}

per_isa! {
    fn affine_part_in_place(scale: &[f32], shift: &[f32], relu: bool, y: &mut [f32]) = affine_part_in_place_body
}

per_isa! {
    fn combine_part(y: &[f32], grad: &[f32], factors: [&[f32]; 4], out: &mut Out) = combine_part_body
}

per_isa! {
    fn combine_clipped_part(
        y: &[f32], grad: &[f32], factors: [&[f32]; 4], affine: [&[f32]; 2], out: &mut Out,
    ) = combine_clipped_part_body
}

/// `grad`, or 0 where `scale * y + shift` is not positive.
#[inline(always)]
fn unclipped<T: Target>(grad: f32, y: f32, scale: f32, shift: f32) -> f32 {
    if T::mul_add(y, scale, shift) > 0.0 { grad } else { 0.0 }
}

#[inline(always)]
fn add_clipped_products_body<T: Target>(
    y: &[f32],
    grad: &[f32],
    mean: &[f32],
    [scale, shift]: [&[f32]; 2],
    sums: &mut [f64],
) {
    let channels = mean.len();
    let mut block_sums = vec![0.0_f32; 2 * channels];
    for (y, grad) in y.chunks(BLOCK * channels).zip(grad.chunks(BLOCK * channels)) {
        block_sums.fill(0.0);
        let (firsts, products) = block_sums.split_at_mut(channels);
        for (y, grad) in y.chunks_exact(channels).zip(grad.chunks_exact(channels)) {
            let values = y.iter().zip(grad).zip(mean).zip(scale.iter().zip(shift));
            for ((((y, grad), mean), (scale, shift)), (first, product)) in
                values.zip(firsts.iter_mut().zip(&mut *products))
            {
                let grad = unclipped::<T>(*grad, *y, *scale, *shift);
                *first += grad;
                *product = T::mul_add(grad, y - mean, *product);
            }
        }
        for (sum, block) in sums.iter_mut().zip(&block_sums) {
            *sum += f64::from(*block);
        }
    }
}

#[inline(always)]
fn combine_clipped_part_body<T: Target>(
    y: &[f32],
    grad: &[f32],
    [of_grad, of_y, origin, constant]: [&[f32]; 4],
    [scale, shift]: [&[f32]; 2],
    out: &mut Out,
) {
    let channels = of_grad.len();
    let pixels = y.chunks_exact(channels).zip(grad.chunks_exact(channels)).zip(out.chunks_exact_mut(channels));
    for ((y, grad), out) in pixels {
        let factors = of_grad.iter().zip(of_y).zip(origin).zip(constant).zip(scale.iter().zip(shift));
        for (((y, grad), out), ((((of_grad, of_y), origin), constant), (scale, shift))) in
            y.iter().zip(grad).zip(out).zip(factors)
        {
            let grad = unclipped::<T>(*grad, *y, *scale, *shift);
            out.write(T::mul_add(*of_grad, grad, T::mul_add(*of_y, *y - *origin, *constant)));
        }
    }
}

#[inline(always)]
fn add_products_body<T: Target>(a: &[f32], b: &[f32], origins: [&[f32]; 2], sums: &mut [f64]) {
    let channels = sums.len() / 2;
    let mut block_sums = vec![0.0_f32; 2 * channels];
    for (a, b) in a.chunks(BLOCK * channels).zip(b.chunks(BLOCK * channels)) {
        block_sums.fill(0.0);
        let (firsts, products) = block_sums.split_at_mut(channels);
        for (a, b) in a.chunks_exact(channels).zip(b.chunks_exact(channels)) {
            let values = a.iter().zip(origins[0]).zip(b.iter().zip(origins[1]));
            for (((a, b), first), product) in
                values.map(|((a, of_a), (b, of_b))| (a - of_a, b - of_b)).zip(&mut *firsts).zip(&mut *products)
            {
                *first += a;
                *product = T::mul_add(a, b, *product);
            }
        }
        for (sum, block) in sums.iter_mut().zip(&block_sums) {
            *sum += f64::from(*block);
        }
    }
}

#[inline(always)]
fn relu_if(relu: bool, value: f32) -> f32 {
    if relu && value < 0.0 { 0.0 } else { value }
}

#[inline(always)]
fn affine_part_body<T: Target>(x: &[f32], scale: &[f32], shift: &[f32], relu: bool, out: &mut Out) {
    for (x, out) in x.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len())) {
        for (((x, scale), shift), out) in x.iter().zip(scale).zip(shift).zip(out) {
            out.write(relu_if(relu, T::mul_add(*x, *scale, *shift)));
        }
    }
}

#[inline(always)]
fn affine_part_in_place_body<T: Target>(scale: &[f32], shift: &[f32], relu: bool, y: &mut [f32]) {
    for y in y.chunks_exact_mut(scale.len()) {
        for ((y, scale), shift) in y.iter_mut().zip(scale).zip(shift) {
            *y = relu_if(relu, T::mul_add(*y, *scale, *shift));
        }
    }
}

#[inline(always)]
fn combine_part_body<T: Target>(
    y: &[f32],
    grad: &[f32],
    [of_grad, of_y, origin, constant]: [&[f32]; 4],
    out: &mut Out,
) {
    let channels = of_grad.len();
    let pixels = y.chunks_exact(channels).zip(grad.chunks_exact(channels)).zip(out.chunks_exact_mut(channels));
    for ((y, grad), out) in pixels {
        let factors = of_grad.iter().zip(of_y).zip(origin).zip(constant);
        for (((y, grad), out), (((of_grad, of_y), origin), constant)) in y.iter().zip(grad).zip(out).zip(factors) {
            out.write(T::mul_add(*of_grad, *grad, T::mul_add(*of_y, *y - *origin, *constant)));
        }
    }
}
