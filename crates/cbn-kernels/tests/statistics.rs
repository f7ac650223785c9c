//! Moments, affine passes and window means against `f64`.

use cbn_kernels::{
    Clipped, ConvShape, affine, affine_in_place, channel_moments, mean_patch, mean_patch_reference,
    norm_backward_apply, norm_backward_sums, row_dots,
};
use proptest::prelude::*;

/// Blocks of 64 are summed in `f32`, the rest in `f64`: a few roundings of 6e-8 each, and one at the end.
const SUM_TOLERANCE: f64 = 5e-7;

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i + seed) * 7919 % 10_007) as f32 / 10_007.0 - 0.3).collect()
}

/// Per channel, the sum of `term(pixel's index)` and of its absolute value, in `f64`.
fn sums(len: usize, channels: usize, term: impl Fn(usize) -> f64) -> Vec<(f64, f64)> {
    let channel = |c| (c..len).step_by(channels).map(&term).fold((0.0, 0.0), |sum, t| (sum.0 + t, sum.1 + t.abs()));
    (0..channels).map(channel).collect()
}

/// Relative to the sum of absolute values, for sums cancel.
fn assert_sums(values: &[f32], truth: &[(f64, f64)], divisor: f64) {
    assert_eq!(values.len(), truth.len());
    for (c, (value, (sum, size))) in values.iter().zip(truth).enumerate() {
        let error = (f64::from(*value) * divisor - sum).abs() / size;
        assert!(error <= SUM_TOLERANCE, "channel {c}: relative error {error:e}");
    }
}

#[test]
fn moments_and_backward_sums_are_those_of_f64() {
    for (pixels, channels) in [(1, 3), (100, 1), (7001, 19), (70_001, 64)] {
        let len = pixels * channels;
        let (y, grad) = (values(len, 0), values(len, 5));
        let wide = |values: &[f32], i: usize| f64::from(values[i]);
        let (mean, var) = channel_moments(&y, channels);
        let mean_sums = sums(len, channels, |i| wide(&y, i));
        assert_sums(&mean, &mean_sums, pixels as f64);
        let distance = |i: usize| wide(&y, i) - mean_sums[i % channels].0 / pixels as f64;
        // The sums are of distances to another point than the mean, whose square is subtracted: up to four times as large.
        for (c, (var, truth)) in var.iter().zip(sums(len, channels, |i| distance(i).powi(2))).enumerate() {
            let truth = truth.0 / pixels as f64;
            assert!((f64::from(*var) - truth).abs() <= 4.0 * SUM_TOLERANCE * truth, "channel {c}: {var} {truth}");
        }
        let origin = values(channels, 3);
        let (grads, products) = norm_backward_sums(&y, &grad, &origin, None);
        assert_sums(&grads, &sums(len, channels, |i| wide(&grad, i)), 1.0);
        assert_sums(
            &products,
            &sums(len, channels, |i| wide(&grad, i) * (wide(&y, i) - wide(&origin, i % channels))),
            1.0,
        );
    }
}

/// The variance of values a thousand standard deviations from zero, which the mean of squares knows to one digit only.
#[test]
fn moments_do_not_drift_with_a_large_mean() {
    let y: Vec<f32> = values(1 << 20, 0).into_iter().map(|value| value + 300.0).collect();
    let (mean, var) = channel_moments(&y, 4);
    let truth = sums(y.len(), 4, |i| f64::from(y[i]));
    let pixels = (y.len() / 4) as f64;
    assert_sums(&mean, &truth, pixels);
    let var_sums = sums(y.len(), 4, |i| (f64::from(y[i]) - truth[i % 4].0 / pixels).powi(2));
    for (var, truth) in var.iter().zip(var_sums) {
        assert!((f64::from(*var) * pixels / truth.0 - 1.0).abs() <= 4.0 * SUM_TOLERANCE);
    }
}

#[test]
fn moments_of_constant_and_of_broken_channels() {
    let y: Vec<f32> = (0..300).flat_map(|i| [0.1, if i == 7 { f32::NAN } else { 1.0 }]).collect();
    let (mean, var) = channel_moments(&y, 2);
    assert_eq!((mean[0], var[0]), (0.1, 0.0));
    assert!(mean[1].is_nan() && var[1].is_nan());
}

#[test]
fn row_dots_are_those_of_f64() {
    for (groups, rows, len) in [(1, 5, 1), (3, 6, 37), (4, 4, 2304), (1, 64, 300)] {
        let (a, b) = (values(groups * len, 1), values(rows * len, 2));
        for (row, dot) in row_dots(&a, &b, groups, rows).into_iter().enumerate() {
            let a = &a[row / (rows / groups) * len..][..len];
            let terms = a.iter().zip(&b[row * len..]).map(|(a, b)| f64::from(*a) * f64::from(*b));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            assert!((f64::from(dot) - sum).abs() <= SUM_TOLERANCE * size, "row {row} of {rows} x {len}");
        }
    }
}

#[test]
fn affine_passes_are_their_formulas() {
    let channels = 37;
    let (y, grad) = (values(channels * 5000, 0), values(channels * 5000, 5));
    let factors = [1, 2, 3, 4].map(|seed| values(channels, seed));
    let [scale, shift, constant, origin] = &factors;
    for relu in [false, true] {
        let out = affine(&y, scale, shift, relu);
        let mut in_place = y.clone();
        affine_in_place(&mut in_place, scale, shift, relu);
        assert!(out == in_place);
        for (i, out) in out.iter().enumerate() {
            let truth = y[i] * scale[i % channels] + shift[i % channels];
            // One rounding of a value below 1.
            assert!((out - if relu { truth.max(0.0) } else { truth }).abs() <= 2e-7);
        }
    }
    let out = norm_backward_apply(&y, &grad, [scale, shift, origin, constant], None);
    for (i, out) in out.iter().enumerate() {
        let c = i % channels;
        assert!((out - (scale[c] * grad[i] + shift[c] * (y[i] - origin[c]) + constant[c])).abs() <= 4e-7);
    }
}

/// A ReLU behind the norm: the passes see the gradient where its output is positive, and 0 elsewhere.
#[test]
fn clipped_gradients_are_those_of_the_masked_map() {
    let channels = 21;
    let (y, grad) = (values(channels * 777, 0), values(channels * 777, 5));
    let factors = [1, 2, 3, 4].map(|seed| values(channels, seed));
    let (scale, shift) = (values(channels, 6), values(channels, 7));
    let forward = affine(&y, &scale, &shift, true);
    assert!(forward.contains(&0.0) && forward.iter().any(|out| *out > 0.0), "both cases occur");
    let masked: Vec<f32> = grad.iter().zip(&forward).map(|(grad, out)| if *out > 0.0 { *grad } else { 0.0 }).collect();
    let clipped = Some(Clipped { scale: &scale, shift: &shift });

    let mean = &factors[0];
    assert_eq!(norm_backward_sums(&y, &grad, mean, clipped), norm_backward_sums(&y, &masked, mean, None));
    let factors = [&factors[0][..], &factors[1], &factors[2], &factors[3]];
    let of_clipped = norm_backward_apply(&y, &grad, factors, clipped);
    assert_eq!(of_clipped, norm_backward_apply(&y, &masked, factors, None));
}

#[test]
fn the_number_of_threads_changes_no_bit_of_the_moments() {
    let y = values(50_000 * 16, 0);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| channel_moments(&y, 16))
    };
    assert!((2..=4).all(|threads| on(threads) == on(1)));
}

#[test]
fn a_patch_by_hand() {
    let shape = ConvShape {
        batch: 1,
        in_channels: 1,
        in_height: 2,
        in_width: 2,
        out_channels: 1,
        kernel: [3, 1],
        stride: [1, 1],
        padding: [1, 0],
        dilation: [1, 1],
        groups: 1,
    };
    // Rows above, at and below each of four outputs: 0 0 1 2, 1 2 3 4, 3 4 0 0.
    assert_eq!(mean_patch(&shape, &[1.0, 2.0, 3.0, 4.0]), [0.75, 2.5, 1.75]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn patches_of_any_shape_are_their_definition(
        sizes in (1..=2_usize, 1..=17_usize, 1..=17_usize, 1..=9_usize, 1..=3_usize),
        kernel in (1..=7_usize, 1..=4_usize),
        steps in (1..=3_usize, 1..=3_usize, 0..=3_usize, 0..=3_usize, 1..=2_usize),
    ) {
        let shape = ConvShape {
            batch: sizes.0, in_channels: sizes.3 * sizes.4, in_height: sizes.1, in_width: sizes.2,
            out_channels: sizes.4, kernel: [kernel.0, kernel.1], stride: [steps.0, steps.1],
            padding: [steps.2, steps.3], dilation: [steps.4, 3 - steps.4], groups: sizes.4,
        };
        prop_assume!(shape.output_len() > 0);
        let x = values(shape.input_len(), 0);
        let (patch, truth) = (mean_patch(&shape, &x), mean_patch_reference(&shape, &x));
        prop_assert_eq!(patch.len(), shape.in_channels * shape.kernel[0] * shape.kernel[1]);
        for (mean, truth) in patch.iter().zip(&truth) {
            // Values below 1: a row is summed in f32.
            prop_assert!((f64::from(*mean) - truth).abs() <= 1e-6);
        }
    }
}
