//! Batch, group and frozen norms by other roads, and folding.

mod common;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use cbn::norm::EpsilonPlace;
use cbn::{BatchNormConfig, CbnConfig, ConvNorm, ConvNormConfig, FrozenNormConfig, GroupNormConfig, Norm, NormConfig};
use common::{block, cbn, floats, random, relative_error, training_device};

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
fn a_fused_block_is_the_block() {
    let device = training_device();
    let outside = EpsilonPlace::OutsideRoot;
    let norms = [
        NormConfig::Identity,
        NormConfig::Batch(BatchNormConfig::default()),
        NormConfig::Sync(BatchNormConfig::default()),
        NormConfig::Group(GroupNormConfig::new(3)),
        NormConfig::Frozen(FrozenNormConfig { epsilon: 1e-2, epsilon_place: outside }),
        cbn(CbnConfig::paper()),
        cbn(CbnConfig { epsilon: 1e-2, ..CbnConfig::published() }),
    ];
    for norm in norms {
        let layer = ConvNormConfig::new([4, 6], [3, 3]).with_groups(2).with_norm(norm.clone()).init(&device);
        for _ in 0..4 {
            // Running statistics away from 0 and 1.
            layer.forward_nchw(random([2, 4, 6, 6], &device) * 3.0);
        }
        let valid = layer.valid();
        let x = random([2, 4, 6, 6], &Device::default());
        let expected: Vec<f64> = floats(valid.forward_nchw(x.clone())).into_iter().map(f64::from).collect();
        let fused = valid.fuse();
        assert_eq!(matches!(fused.norm, Norm::Identity(_)), !matches!(norm, NormConfig::Group(_)), "{norm:?}");
        let error = relative_error(&floats(fused.forward_nchw(x)), &expected);
        assert!(error < 1e-6, "{norm:?}: {error:e}");
    }
}
