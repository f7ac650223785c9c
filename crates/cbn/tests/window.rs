//! The statistics of the window: what counts, how much, and that odd input does no harm.

mod common;

use burn::tensor::{Device, Tensor};
use cbn::norm::cbn::{
    Compensation, Correction, HistoryGradient, RunningStatistics, Weighting, WindowOpening, WindowSpan,
};
use cbn::{BatchNormConfig, CbnConfig, ConvNorm, ConvNormConfig, NormConfig, ops};
use common::{block, cbn, cbn_of, floats, max_difference, random, training_device, with_weight, with_weight_of};

fn batch_norm_like(layer: &ConvNorm, device: &Device) -> ConvNorm {
    with_weight_of(block(NormConfig::Batch(BatchNormConfig::default()), device), layer)
}

fn bare_like(layer: &ConvNorm, device: &Device) -> ConvNorm {
    with_weight_of(block(NormConfig::Identity, device), layer)
}

#[test]
fn a_window_of_one_is_batch_norm() {
    let device = training_device();
    let window = block(cbn(CbnConfig { window: 1, ..CbnConfig::paper() }), &device);
    let batch = batch_norm_like(&window, &device);
    for _ in 0..3 {
        let x = random([2, 4, 6, 6], &device);
        assert_eq!(floats(batch.forward_nchw(x.clone())), floats(window.forward_nchw(x)));
    }
    let running = |layer: &ConvNorm| match &layer.norm {
        cbn::Norm::Batch(norm) => [floats(norm.running_mean.value()), floats(norm.running_var.value())],
        _ => [floats(cbn_of(layer).running_mean.value()), floats(cbn_of(layer).running_var.value())],
    };
    assert_eq!(running(&window), running(&batch));
}

/// Batches of other sizes too: an iteration counts by its positions.
#[test]
fn unchanged_weights_make_batch_norm_over_the_concatenated_batches() {
    let device = training_device();
    let window = block(cbn(CbnConfig { window: 3, ..CbnConfig::paper() }), &device);
    let batch = batch_norm_like(&window, &device);
    let batches = [1, 3, 2, 1, 4].map(|images| random([images, 4, 6, 7], &device));
    let outputs = batches.clone().map(|x| window.forward_nchw(x));
    for last in [0, 1, 2, 4] {
        let first = usize::saturating_sub(last, 2);
        let together = batch.forward_nchw(Tensor::cat(batches[first..=last].to_vec(), 0));
        let images = together.dims()[0];
        let expected = together.slice([images - batches[last].dims()[0]..images]);
        // f32 moments, joined in another order.
        assert!(max_difference(outputs[last].clone(), expected) < 1e-5, "after {last} iterations");
    }
}

#[test]
fn a_span_of_samples_takes_the_newest_iterations_that_fit_whole() {
    let device = training_device();
    let config = CbnConfig { window: 5, span: WindowSpan::Samples { at_most: 6 }, ..CbnConfig::paper() };
    let window = block(cbn(config), &device);
    let batch = batch_norm_like(&window, &device);
    let batches = [3, 1, 2, 4, 1, 2, 7, 1, 1, 1, 1, 1].map(|images| random([images, 4, 6, 7], &device));
    let outputs = batches.clone().map(|x| window.forward_nchw(x));
    // By hand. The third takes all six; the sixth, 2 + 1, has no room for the 4, and what is older stays out although it would fit; 7 are
    // too many for themselves, and for the one after. The last is kept to five iterations by the window.
    let firsts = [0, 0, 0, 2, 3, 4, 6, 7, 7, 7, 7, 7];
    for (last, first) in firsts.into_iter().enumerate() {
        let together = batch.forward_nchw(Tensor::cat(batches[first..=last].to_vec(), 0));
        let images = together.dims()[0];
        let expected = together.slice([images - batches[last].dims()[0]..images]);
        // f32 moments, joined in another order.
        assert!(max_difference(outputs[last].clone(), expected) < 1e-5, "iteration {last}");
    }
}

#[test]
fn of_equal_batches_a_span_of_samples_is_one_of_iterations() {
    let device = training_device();
    let iterations = CbnConfig { history_gradient: HistoryGradient::ThroughWeight, ..CbnConfig::paper() };
    // Nine samples hold four iterations of two.
    let samples = CbnConfig { window: 8, span: WindowSpan::Samples { at_most: 9 }, ..iterations.clone() };
    let mut layers = [block(cbn(iterations), &device), block(cbn(samples), &device)];
    layers[1].weight = layers[0].weight.clone();
    for step in 0..7 {
        let x = random([2, 4, 6, 6], &device);
        let [a, b] = layers.each_mut().map(|layer| {
            let y = layer.forward_nchw(x.clone());
            let gradients = y.clone().powi_scalar(3).sum().backward();
            let gradient = layer.weight.val().grad(&gradients).expect("it trains");
            let moved = layer.weight.val().inner() - gradient.clone() * 1e-4;
            layer.weight = layer.weight.clone().map(|_| Tensor::from_inner(moved).require_grad());
            (floats(y), floats(gradient))
        });
        assert_eq!(a, b, "step {step}");
    }
}

#[test]
fn iterations_count_equally_if_so_configured() {
    let device = training_device();
    let config = CbnConfig { weighting: Weighting::Iterations, affine: false, ..CbnConfig::paper() };
    let layer = block(cbn(config), &device);
    let bare = bare_like(&layer, &device);
    let (past, current) = (random([5, 4, 6, 6], &device), random([1, 4, 6, 6], &device));
    layer.forward_nchw(past.clone());
    let moments = |x: &Tensor<4>| {
        let y = bare.forward_nchw(x.clone()).swap_dims(0, 1);
        let y = y.clone().reshape([6, y.shape().num_elements() / 6]);
        [y.clone().mean_dim(1), y.square().mean_dim(1)]
    };
    let [then, now] = [moments(&past), moments(&current)];
    let [mean, second] = [0, 1].map(|i| ((then[i].clone() + now[i].clone()) / 2.0).reshape([1, 6, 1, 1]));
    let std = (second - mean.clone().square() + 1e-5).sqrt();
    let expected = (bare.forward_nchw(current.clone()) - mean) / std;
    assert!(max_difference(layer.forward_nchw(current), expected) < 1e-5);
}

#[test]
fn the_window_opens_after_burn_in() {
    let device = training_device();
    let layer = block(cbn(CbnConfig { burn_in_iterations: 2, ..CbnConfig::paper() }), &device);
    let batch = batch_norm_like(&layer, &device);
    let differs = [(); 5].map(|()| {
        let x = random([1, 4, 6, 6], &device);
        max_difference(layer.forward_nchw(x.clone()), batch.forward_nchw(x)) > 1e-3
    });
    // The third call finds an empty history and begins to fill it.
    assert_eq!(differs, [false, false, false, true, true]);
}

#[test]
fn a_linear_opening_takes_in_one_iteration_after_the_other() {
    let device = training_device();
    let config = CbnConfig { window: 4, burn_in_iterations: 6, opening: WindowOpening::Linear, ..CbnConfig::paper() };
    let layer = block(cbn(config), &device);
    let counts = [(); 9].map(|()| {
        layer.forward_nchw(random([1, 4, 6, 6], &device));
        cbn_of(&layer).history.ring().filled.get()
    });
    // floor(3 i / 6) for i = 1, 2, ..; an entry is stored from the iteration on that may keep one.
    assert_eq!(counts, [0, 1, 1, 2, 2, 3, 3, 3, 3]);
}

#[test]
fn a_warm_window_is_full_when_it_opens() {
    let device = training_device();
    let config = CbnConfig { burn_in_iterations: 5, opening: WindowOpening::Warm, ..CbnConfig::paper() };
    let layer = block(cbn(config), &device);
    let batch = batch_norm_like(&layer, &device);
    let differs = [(); 6].map(|()| {
        let x = random([1, 4, 6, 6], &device);
        max_difference(layer.forward_nchw(x.clone()), batch.forward_nchw(x)) > 1e-3
    });
    assert_eq!(differs, [false, false, false, false, false, true]);
    assert_eq!(cbn_of(&layer).history.ring().filled.get(), 3);
}

/// A sample of the past is an estimate: near the truth, never a negative variance, however far the weight moved.
#[test]
fn a_sampled_past_is_near_the_whole() {
    let device = training_device();
    let whole = CbnConfig { compensation: Compensation::Exact { positions: 10_000 }, ..CbnConfig::paper() };
    let some = CbnConfig { compensation: Compensation::Exact { positions: 30 }, ..CbnConfig::paper() };
    let [whole, some] = [whole, some].map(|config| block(cbn(config), &device));
    let some = with_weight_of(some, &whole);
    for _ in 0..3 {
        let x = random([2, 4, 16, 16], &device);
        whole.forward_nchw(x.clone());
        some.forward_nchw(x);
    }
    let moved = whole.weight.val().inner() * 3.0 + 0.5;
    let x = random([2, 4, 16, 16], &device);
    let [expected, sampled] = [whole, some].map(|layer| with_weight(layer, &moved).forward_nchw(x.clone()));
    let std = |y: Tensor<4>| y.square().mean().sqrt().into_scalar::<f32>();
    // Three entries of 30 patches: their variance is known to sqrt(2 / 90), hence the scale to 7%; five of these.
    let ratio = std(sampled) / std(expected);
    assert!((ratio - 1.0).abs() < 0.35, "{ratio}");
}

/// The mean of a past iteration under a new weight is exact, so the output's mean tells it.
#[test]
fn the_mean_is_compensated_exactly() {
    let device = training_device();
    let layer = block(cbn(CbnConfig { window: 2, ..CbnConfig::paper() }), &device);
    let (past, current) = (random([1, 4, 6, 6], &device), random([1, 4, 6, 6], &device));
    layer.forward_nchw(past.clone());
    let moved = layer.weight.val().inner() * 1.02 + 0.003;
    let layer = with_weight(layer, &moved);
    let bare = bare_like(&layer, &device);
    let channel_means = |x: Tensor<4>| x.swap_dims(0, 1).reshape([6, 36]).mean_dim(1);
    let mean = (channel_means(bare.forward_nchw(past)) + channel_means(bare.forward_nchw(current.clone()))) / 2.0;

    // Two outputs of a channel give its scale, hence the mean that was subtracted.
    let y = bare.forward_nchw(current.clone()).swap_dims(0, 1).reshape([6, 36]);
    let normalised = layer.forward_nchw(current).swap_dims(0, 1).reshape([6, 36]);
    let spread = |x: Tensor<2>| x.clone().max_dim(1) - x.min_dim(1);
    let scale = spread(normalised.clone()) / spread(y.clone());
    let subtracted = y.mean_dim(1) - normalised.mean_dim(1) / scale;
    assert!(max_difference(subtracted, mean) < 1e-5);
}

#[test]
fn the_closed_forms_are_what_autodiff_finds() {
    let device = training_device();
    for (groups, stride, dilation) in [(1, 1, 1), (2, 2, 1), (1, 1, 2)] {
        let config = ConvNormConfig::new([4, 6], [3, 3])
            .with_groups(groups)
            .with_stride([stride; 2])
            .with_dilation([dilation; 2])
            .with_padding([1, 1]);
        let layer = config.with_norm(cbn(CbnConfig::paper())).init(&device);
        let x = random([2, 4, 9, 8], &device);
        layer.forward_nchw(x.clone());

        let weight = layer.weight.val();
        let output = || ops::conv2d(&cbn::FeatureMap::from_nchw(x.clone()), &weight, &layer.geometry).into_nhwc();
        let y = output();
        let positions = (y.shape().num_elements() / 6) as f64;
        let gradient = |sum: Tensor<1>| {
            let gradient = weight.grad(&(sum / positions).backward()).expect("it trains");
            gradient.reshape([6, weight.shape().num_elements() / 6])
        };
        let [of_mean, of_second] = [gradient(output().sum()), gradient(output().square().sum())];

        let entry = &cbn_of(&layer).history.ring().entries[0];
        let Correction::FirstOrder(kept) = &entry.correction else { panic!("the paper's compensation") };
        let rows = kept.second_gradient.value().inner();
        assert!(max_difference(rows, of_second) < 1e-5, "G with {groups} groups, stride {stride}");
        // The mean patch is one for all channels of a group.
        let patches = kept.mean_patch.value().inner().repeat_dim(1, 6 / groups).reshape([6, of_mean.dims()[1]]);
        assert!(max_difference(patches, of_mean) < 1e-5, "mean patch with {groups} groups, stride {stride}");
        // Euler: nu is homogeneous of degree two in the weight, mu of degree one.
        let [mean, second] =
            [y.clone(), y.square()].map(|y| y.sum_dim(0).sum_dim(1).sum_dim(2).reshape([6]) / positions);
        let along = Tensor::stack::<2>(vec![mean, second * 2.0], 0);
        assert!(max_difference(kept.along_weight.value(), along) < 1e-5, "Euler");
    }
}

#[test]
fn running_statistics_may_follow_the_window() {
    let device = training_device();
    let config = CbnConfig { momentum: 1.0, running_statistics: RunningStatistics::Window, ..CbnConfig::paper() };
    let layer = block(cbn(config), &device);
    let bare = bare_like(&layer, &device);
    let batches = [(); 2].map(|()| random([2, 4, 6, 6], &device));
    for x in &batches {
        layer.forward_nchw(x.clone());
    }
    let y = bare.forward_nchw(Tensor::cat(batches.to_vec(), 0)).swap_dims(0, 1).reshape([6, 144]);
    let (var, mean) = y.var_mean(1);
    let norm = cbn_of(&layer);
    assert!(max_difference(norm.running_mean.value(), mean.squeeze_dim(1)) < 1e-5);
    // Burn's variance is the unbiased one.
    assert!(max_difference(norm.running_var.value(), var.squeeze_dim(1)) < 1e-5);
}

fn assert_finite_step(layer: &ConvNorm, x: Tensor<4>, what: &str) {
    let x = x.require_grad();
    let y = layer.forward_nchw(x.clone());
    let grads = (y.clone() + 1.0).square().sum().backward();
    let of_weight = layer.weight.val().grad(&grads).expect("it trains");
    for values in [floats(y), floats(of_weight), floats(x.grad(&grads).expect("asked for"))] {
        assert!(values.iter().all(|value| value.is_finite()), "{what}");
    }
}

#[test]
fn constant_channels_and_invalid_windows_stay_finite() {
    let device = training_device();
    let through = CbnConfig { history_gradient: HistoryGradient::ThroughWeight, ..CbnConfig::paper() };
    for config in [CbnConfig::paper(), CbnConfig::published(), through] {
        let layer = block(cbn(config.clone()), &device);
        for value in [0.0, 3.0, 3.0, 0.0] {
            assert_finite_step(&layer, Tensor::full([2, 4, 5, 5], value, &device), &format!("constant {config:?}"));
        }
        // A step so long that no past entry stays valid: its first-order variance is negative in every channel.
        let layer = block(cbn(config.clone()), &device);
        for _ in 0..3 {
            layer.forward_nchw(random([1, 4, 5, 5], &device));
        }
        let moved = random([6, 4, 3, 3], &device).inner() * 50.0;
        assert_finite_step(
            &with_weight(layer, &moved),
            random([1, 4, 5, 5], &device),
            &format!("long step {config:?}"),
        );
    }
}

/// Of a frozen convolution only the norm trains; its window is as before.
#[test]
fn a_frozen_convolution_weight_works() {
    let device = training_device();
    let through = CbnConfig { history_gradient: HistoryGradient::ThroughWeight, ..CbnConfig::paper() };
    for config in [CbnConfig::paper(), through] {
        let mut layer = block(cbn(config.clone()), &device);
        let trains = block(cbn(config), &device);
        let trains = with_weight_of(trains, &layer);
        layer.weight = layer.weight.set_require_grad(false);
        for _ in 0..3 {
            let x = random([1, 4, 6, 6], &device);
            let y = layer.forward_nchw(x.clone());
            assert_eq!(floats(y.clone()), floats(trains.forward_nchw(x)));
            let grads = y.square().sum().backward();
            assert!(layer.weight.val().grad(&grads).is_none());
            assert!(cbn_of(&layer).gamma.as_ref().and_then(|gamma| gamma.val().grad(&grads)).is_some());
        }
        assert_eq!(cbn_of(&layer).history.ring().filled.get(), 3);
    }
}

/// Two blocks at learning rate 0.1 from the first iteration on, with no burn-in: what collapsed in the released layer.
#[test]
fn a_window_open_from_the_start_trains_at_learning_rate_0_1() {
    for (name, history_gradient) in [("none", HistoryGradient::None), ("weight", HistoryGradient::ThroughWeight)] {
        let device = training_device();
        let norm = || cbn(CbnConfig { history_gradient, ..CbnConfig::paper() });
        let mut blocks = [(); 2].map(|()| block(norm(), &device));
        blocks[1] = ConvNormConfig::new([6, 1], [3, 3]).with_padding([1, 1]).with_norm(norm()).init(&device);
        let mut losses = Vec::new();
        for _ in 0..150 {
            let x = random([2, 4, 8, 8], &device);
            // Something to learn: the first channel, smoothed.
            let target = x.clone().slice([0..2, 0..1]) - 0.3;
            let y = blocks[1].forward_nchw(burn::tensor::activation::relu(blocks[0].forward_nchw(x)));
            let loss = (y - target).square().mean();
            let grads = loss.backward();
            losses.push(floats(loss.clone())[0]);
            for block in &mut blocks {
                let grad = block.weight.val().grad(&grads).expect("it trains");
                let stepped = block.weight.val().inner() - grad * 0.1;
                block.weight = block.weight.clone().map(|_| Tensor::from_inner(stepped).require_grad());
            }
        }
        assert!(losses.iter().all(|loss| loss.is_finite()), "{name}: {losses:?}");
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        let (first, last) = (mean(&losses[..5]), mean(&losses[145..]));
        assert!(last < 0.7 * first, "{name}: from {first} to {last}");
    }
}
