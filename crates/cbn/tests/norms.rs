//! The norms by other roads: closed forms, finite differences, batch norm over more images.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use cbn::{BatchNormConfig, CbnConfig, ConvNorm, ConvNormConfig, FrozenNormConfig, GroupNormConfig, Norm, NormConfig};

fn training_device() -> Device {
    let device = Device::default().autodiff();
    device.seed(7);
    device
}

fn block(norm: NormConfig, device: &Device) -> ConvNorm {
    ConvNormConfig::new([4, 6], [3, 3]).with_padding([1, 1]).with_norm(norm).init(device)
}

fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::random(shape, Distribution::Normal(0.3, 1.0), device)
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("the layers compute in f32")
}

fn max_difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    floats(a).iter().zip(floats(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn cbn(window: usize, burn_in_iterations: usize) -> NormConfig {
    NormConfig::CrossIteration(CbnConfig { window, burn_in_iterations, ..CbnConfig::paper() })
}

/// The same weight behind another norm.
fn with_weight_of(block: ConvNorm, other: &ConvNorm) -> ConvNorm {
    ConvNorm { weight: other.weight.clone(), ..block }
}

#[test]
fn batch_norm_outputs_have_mean_zero_and_variance_one() {
    let device = training_device();
    let y = block(NormConfig::Batch(BatchNormConfig::default()), &device).forward_nchw(random([2, 4, 8, 9], &device));
    let by_channel = y.swap_dims(0, 1).reshape([6, 2 * 8 * 9]);
    let mean = by_channel.clone().mean_dim(1);
    let second = by_channel.square().mean_dim(1);
    // f32 sums over 144 values of order 1.
    assert!(floats(mean).iter().all(|mean| mean.abs() < 1e-5));
    assert!(floats(second).iter().all(|second| (second - 1.0).abs() < 1e-3));
}

#[test]
fn running_variance_is_the_unbiased_one() {
    let device = training_device();
    let layer =
        ConvNormConfig::new([1, 1], [1, 1]).with_norm(NormConfig::Batch(BatchNormConfig::default())).init(&device);
    let x = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 6.0], &device).reshape([1, 1, 2, 2]);
    layer.forward_nchw(x);
    let weight = floats(layer.weight.val())[0];
    let Norm::Batch(norm) = &layer.norm else { unreachable!("configured so") };
    // 0.9 * 1 + 0.1 * w^2 * 14 / 3; the biased variance would be 14 / 4.
    let expected = 0.9 + 0.1 * weight * weight * 14.0 / 3.0;
    assert!((floats(norm.running_var.value())[0] - expected).abs() < 1e-5);
}

#[test]
fn a_window_of_one_is_batch_norm() {
    let device = training_device();
    let batch = block(NormConfig::Batch(BatchNormConfig::default()), &device);
    let window = with_weight_of(block(cbn(1, 0), &device), &batch);
    for _ in 0..3 {
        let x = random([2, 4, 6, 6], &device);
        assert_eq!(floats(batch.forward_nchw(x.clone())), floats(window.forward_nchw(x)));
    }
}

#[test]
fn unchanged_weights_make_batch_norm_over_the_concatenated_batches() {
    let device = training_device();
    let window = block(cbn(3, 0), &device);
    let batch = with_weight_of(block(NormConfig::Batch(BatchNormConfig::default()), &device), &window);
    let batches = [(); 5].map(|()| random([1, 4, 6, 7], &device));
    let outputs = batches.clone().map(|x| window.forward_nchw(x));
    for last in [0, 1, 2, 4] {
        let first = usize::saturating_sub(last, 2);
        let together = batch.forward_nchw(Tensor::cat(batches[first..=last].to_vec(), 0));
        let expected = together.slice([last - first..last - first + 1]);
        // f32 moments from a weight gradient on one side, from the output on the other.
        assert!(max_difference(outputs[last].clone(), expected) < 2e-4, "after {last} iterations");
    }
}

#[test]
fn the_window_opens_after_burn_in() {
    let device = training_device();
    let layer = block(cbn(4, 2), &device);
    let batch = with_weight_of(block(NormConfig::Batch(BatchNormConfig::default()), &device), &layer);
    let differs = [(); 5].map(|()| {
        let x = random([1, 4, 6, 6], &device);
        max_difference(layer.forward_nchw(x.clone()), batch.forward_nchw(x)) > 1e-3
    });
    // The third call finds an empty history and begins to fill it.
    assert_eq!(differs, [false, false, false, true, true]);
}

/// The mean of a past iteration under a new weight is exact, so the output's mean tells it.
#[test]
fn the_mean_is_compensated_exactly() {
    let device = training_device();
    let mut layer = block(cbn(2, 0), &device);
    let (past, current) = (random([1, 4, 6, 6], &device), random([1, 4, 6, 6], &device));
    layer.forward_nchw(past.clone());
    let moved = layer.weight.val().inner() * 1.02 + 0.003;
    layer.weight = layer.weight.map(|_| Tensor::from_inner(moved).require_grad());
    let bare = ConvNorm { weight: layer.weight.clone(), ..block(NormConfig::Identity, &device) };
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
fn constant_input_stays_finite_forward_and_backward() {
    let device = training_device();
    let layer = block(cbn(3, 0), &device);
    for _ in 0..4 {
        let y = layer.forward_nchw(Tensor::zeros([2, 4, 5, 5], &device));
        assert!(floats(y.clone()).iter().all(|y| y.is_finite()));
        let grads = (y + 1.0).square().sum().backward();
        let grad = layer.weight.val().grad(&grads).expect("the weight trains");
        assert!(floats(grad).iter().all(|g| g.is_finite()));
    }
}

/// The loss as a function of one weight, history held, against its gradient.
#[test]
fn gradients_match_central_differences() {
    let norms = [
        NormConfig::Batch(BatchNormConfig::default()),
        NormConfig::Group(GroupNormConfig::new(3)),
        NormConfig::Frozen(FrozenNormConfig::default()),
    ];
    let device = training_device();
    for norm in norms {
        let layer = block(norm.clone(), &device);
        let (x, direction) = (random([2, 4, 5, 5], &device), random([2, 6, 5, 5], &device));
        let loss = |layer: &ConvNorm| (layer.forward_nchw(x.clone()) * direction.clone()).sum();
        let grads = loss(&layer).backward();
        let grad = floats(layer.weight.val().grad(&grads).expect("the weight trains"));
        let weight = floats(layer.weight.val());
        for index in [0, 17, 53, 101, 215] {
            let step = 1e-2;
            let moved = |by: f32| {
                let mut weight = weight.clone();
                weight[index] += by;
                let weight = Tensor::from_data(TensorData::new(weight, [6, 4, 3, 3]), &device);
                let layer = ConvNorm { weight: layer.weight.clone().map(|_| weight.clone()), ..layer.clone() };
                f64::from(floats(loss(&layer))[0])
            };
            let numeric = (moved(step) - moved(-step)) / f64::from(2.0 * step);
            // f32 losses of order 10 over a step of 2e-2, and the third derivative: a wrong term shows at 1e-1.
            assert!((f64::from(grad[index]) - numeric).abs() < 2e-2, "{norm:?} {index}: {} {numeric}", grad[index]);
        }
    }
}

#[test]
fn history_and_counter_are_module_state() {
    struct Names(Vec<String>, Vec<Vec<usize>>);
    impl ModuleVisitor for Names {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.push(name.to_owned());
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push(param.val().dims().to_vec());
        }
    }
    let mut names = Names(Vec::new(), Vec::new());
    block(cbn(4, 0), &training_device()).visit(&mut names);
    for name in ["iteration", "mean_patch", "second_gradient", "second", "stored"] {
        assert!(names.0.iter().any(|found| found == name), "{name} is missing in {:?}", names.0);
    }
    assert!(names.1.contains(&vec![3, 6, 36]), "three past iterations of [C_out, D]");
}

#[test]
fn unfreezing_a_frozen_norm_does_not_train_its_statistics() {
    struct Trains(Vec<(String, bool)>, String);
    impl ModuleVisitor for Trains {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.1 = name.to_owned();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push((self.1.clone(), param.val().is_require_grad()));
        }
    }
    let layer = block(NormConfig::Frozen(FrozenNormConfig::default()), &training_device()).freeze().unfreeze();
    let mut trains = Trains(Vec::new(), String::new());
    layer.visit(&mut trains);
    let expected = [("weight", true), ("gamma", true), ("beta", true), ("running_mean", false), ("running_var", false)];
    assert_eq!(trains.0, expected.map(|(name, trains)| (name.to_owned(), trains)));
}

#[test]
fn inference_uses_running_statistics_and_changes_nothing() {
    let device = training_device();
    let layer = block(cbn(4, 0), &device);
    layer.forward_nchw(random([2, 4, 6, 6], &device));
    let valid = layer.valid();
    let x = random([1, 4, 6, 6], &Device::default());
    assert_eq!(floats(valid.forward_nchw(x.clone())), floats(valid.forward_nchw(x)));
}
