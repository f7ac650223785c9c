//! Group norm against its definition in `f64`, and that definition's gradient against finite differences.

use cbn_kernels::{GroupNorm, GroupShape, group_moments};

/// Sums of blocks of 64 in `f32`, and a few roundings per value: measured 1e-7 to 4e-7 of the largest value.
const TOLERANCE: f64 = 2e-6;
const EPSILON: f64 = 1e-5;

/// Group sizes 1, some and C, odd sizes, one pixel, several ranges per image.
const SHAPES: [GroupShape; 7] = [
    shape(2, 35, 12, 4),
    shape(1, 1, 6, 2),
    shape(3, 63, 7, 7),
    shape(3, 65, 7, 1),
    shape(2, 4999, 32, 8),
    shape(70, 49, 16, 2),
    shape(1, 301, 65, 5),
];

const fn shape(batch: usize, pixels: usize, channels: usize, groups: usize) -> GroupShape {
    GroupShape { batch, pixels, channels, groups }
}

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i + seed) * 7919 % 10_007) as f32 / 10_007.0 - 0.4).collect()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// The image and group of element `i`, as one index.
fn group_of(shape: &GroupShape, i: usize) -> usize {
    let image = i / (shape.pixels * shape.channels);
    image * shape.groups + i % shape.channels / (shape.channels / shape.groups)
}

/// Per image and group, the mean of `term(i)`.
fn group_means(shape: &GroupShape, len: usize, term: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; shape.batch * shape.groups];
    for i in 0..len {
        sums[group_of(shape, i)] += term(i);
    }
    let count = (shape.pixels * shape.channels / shape.groups) as f64;
    sums.iter().map(|sum| sum / count).collect()
}

/// Mean and biased variance.
fn moments(shape: &GroupShape, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mean = group_means(shape, x.len(), |i| x[i]);
    let variance = group_means(shape, x.len(), |i| (x[i] - mean[group_of(shape, i)]).powi(2));
    (mean, variance)
}

/// The normalised input, and the standard deviation of each group.
fn normalized(shape: &GroupShape, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (mean, variance) = moments(shape, x);
    let std: Vec<f64> = variance.iter().map(|variance| (variance + EPSILON).sqrt()).collect();
    let x_hat = x.iter().enumerate().map(|(i, x)| (x - mean[group_of(shape, i)]) / std[group_of(shape, i)]);
    (x_hat.collect(), std)
}

fn forward(shape: &GroupShape, x: &[f64], [gamma, beta]: [&[f64]; 2], relu: bool) -> Vec<f64> {
    let (x_hat, _) = normalized(shape, x);
    let y = |(i, x_hat): (usize, &f64)| gamma[i % shape.channels] * x_hat + beta[i % shape.channels];
    x_hat.iter().enumerate().map(y).map(|y| if relu { y.max(0.0) } else { y }).collect()
}

/// Gradients with regard to x, gamma and beta.
fn backward(shape: &GroupShape, x: &[f64], [gamma, beta]: [&[f64]; 2], relu: bool, grad: &[f64]) -> [Vec<f64>; 3] {
    let (x_hat, std) = normalized(shape, x);
    let channel = |i: usize| i % shape.channels;
    let is_clipped = |i: usize| relu && gamma[channel(i)] * x_hat[i] + beta[channel(i)] <= 0.0;
    let grad: Vec<f64> = grad.iter().enumerate().map(|(i, g)| if is_clipped(i) { 0.0 } else { *g }).collect();
    let means = group_means(shape, x.len(), |i| gamma[channel(i)] * grad[i]);
    let products = group_means(shape, x.len(), |i| gamma[channel(i)] * grad[i] * x_hat[i]);
    let (mut grad_gamma, mut grad_beta) = (vec![0.0; shape.channels], vec![0.0; shape.channels]);
    let mut grad_x = vec![0.0; x.len()];
    for i in 0..x.len() {
        let group = group_of(shape, i);
        grad_gamma[channel(i)] += grad[i] * x_hat[i];
        grad_beta[channel(i)] += grad[i];
        grad_x[i] = (gamma[channel(i)] * grad[i] - means[group] - x_hat[i] * products[group]) / std[group];
    }
    [grad_x, grad_gamma, grad_beta]
}

/// Forward, and the gradients, by the kernels.
fn run(shape: &GroupShape, x: &[f32], [gamma, beta, grad]: [&[f32]; 3], relu: bool) -> [Vec<f32>; 4] {
    let (mean, variance) = group_moments(x, shape);
    let inv_std: Vec<f32> = variance.iter().map(|v| (1.0 / (f64::from(*v) + EPSILON).sqrt()) as f32).collect();
    let norm = GroupNorm { shape: *shape, mean: &mean, inv_std: &inv_std, gamma, beta, relu };
    let (mut y, mut grad_x) = (vec![7.0; x.len()], vec![7.0; x.len()]);
    norm.forward(x, &mut y);
    let (grad_gamma, grad_beta) = norm.backward(x, grad, &mut grad_x);
    [y, grad_x, grad_gamma, grad_beta]
}

fn size(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |size: f64, value| size.max(value.abs()))
}

/// Relative to `size`.
fn assert_close(what: &str, values: &[f32], truth: &[f64], size: f64) {
    assert_eq!(values.len(), truth.len());
    for (i, (value, truth)) in values.iter().zip(truth).enumerate() {
        let error = (f64::from(*value) - truth).abs();
        assert!(error <= TOLERANCE * size, "{what} {i}: {value} for {truth}");
    }
}

#[test]
fn moments_are_those_of_f64() {
    for shape in SHAPES {
        let x = values(shape.batch * shape.pixels * shape.channels, 0);
        let (mean, variance) = group_moments(&x, &shape);
        let truth = moments(&shape, &widen(&x));
        assert_close("mean", &mean, &truth.0, 1.0);
        assert_close("variance", &variance, &truth.1, 0.1);
    }
}

#[test]
fn a_mean_far_from_zero_costs_no_digits_of_the_variance() {
    let shape = shape(2, 4999, 12, 3);
    // The addition rounds the values themselves: the truth is that of the rounded ones.
    let x: Vec<f32> = values(2 * 4999 * 12, 0).into_iter().map(|x| x + 10_000.0).collect();
    let truth = moments(&shape, &widen(&x));
    assert_close("variance", &group_moments(&x, &shape).1, &truth.1, 0.1);
}

#[test]
fn the_norm_and_its_gradients_are_those_of_f64() {
    for shape in SHAPES {
        let len = shape.batch * shape.pixels * shape.channels;
        let (x, grad) = (values(len, 0), values(len, 5));
        let (gamma, beta) = (values(shape.channels, 1), values(shape.channels, 2));
        let (wide_gamma, wide_beta) = (widen(&gamma), widen(&beta));
        for relu in [false, true] {
            let [y, grad_x, grad_gamma, grad_beta] = run(&shape, &x, [&gamma, &beta, &grad], relu);
            let parameters = [wide_gamma.as_slice(), &wide_beta];
            let truth = forward(&shape, &widen(&x), parameters, relu);
            assert_close("y", &y, &truth, size(&truth));
            let truth = backward(&shape, &widen(&x), parameters, relu, &widen(&grad));
            // The terms of grad x before they cancel, which with one value per group they do.
            let grad_x_size = size(&widen(&grad)) * size(&wide_gamma) / normalized(&shape, &widen(&x)).1[0];
            assert_close("grad x", &grad_x, &truth[0], grad_x_size);
            // Sums of so many terms of either sign.
            let count = (shape.batch * shape.pixels) as f64;
            assert_close("grad gamma", &grad_gamma, &truth[1], count);
            assert_close("grad beta", &grad_beta, &truth[2], count);
        }
    }
}

#[test]
fn the_gradients_are_finite_differences() {
    const STEP: f64 = 1e-5;
    for (shape, relu) in SHAPES.into_iter().take(4).zip([false, false, true, true]) {
        let len = shape.batch * shape.pixels * shape.channels;
        let (x, grad) = (values(len, 0), values(len, 5));
        let (gamma, beta) = (values(shape.channels, 1), values(shape.channels, 2));
        let [_, grad_x, grad_gamma, grad_beta] = run(&shape, &x, [&gamma, &beta, &grad], relu);
        let inputs = [widen(&x), widen(&gamma), widen(&beta)];
        let loss = |inputs: &[Vec<f64>; 3]| -> f64 {
            let y = forward(&shape, &inputs[0], [&inputs[1], &inputs[2]], relu);
            y.iter().zip(&grad).map(|(y, grad)| y * f64::from(*grad)).sum()
        };
        for (which, gradient) in [&grad_x, &grad_gamma, &grad_beta].into_iter().enumerate() {
            for i in (0..gradient.len()).step_by(gradient.len().div_ceil(40)) {
                let at = |step: f64| {
                    let mut inputs = inputs.clone();
                    inputs[which][i] += step;
                    loss(&inputs)
                };
                let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                // The step crosses no corner of the ReLU at these values; what is left is the f32 of the kernels.
                assert!((f64::from(gradient[i]) - difference).abs() <= 2e-5, "{shape:?}, input {which}, element {i}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for shape in SHAPES {
        let len = shape.batch * shape.pixels * shape.channels;
        let (x, grad) = (values(len, 0), values(len, 5));
        let (gamma, beta) = (values(shape.channels, 1), values(shape.channels, 2));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (group_moments(&x, &shape), run(&shape, &x, [&gamma, &beta, &grad], true)))
        };
        let one = on(1);
        assert!((2..=4).all(|threads| on(threads) == one), "{shape:?}");
    }
}

#[test]
fn empty_maps_have_zero_gradients() {
    for shape in [shape(0, 5, 4, 2), shape(2, 0, 4, 2)] {
        let [y, grad_x, grad_gamma, grad_beta] = run(&shape, &[], [&[1.0; 4], &[0.0; 4], &[]], false);
        assert!(y.is_empty() && grad_x.is_empty());
        assert_eq!([grad_gamma, grad_beta], [[0.0; 4], [0.0; 4]]);
    }
}
