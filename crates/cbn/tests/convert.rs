//! Converted blocks against Burn's own convolution and batch norm.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use burn::module::{Initializer, Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::tensor::{Device, Distribution, Tensor};
use cbn::{CbnConfig, ConvNorm, ConvertError, FrozenNormConfig, GroupNormConfig, Norm, NormConfig};

/// f32 convolutions of at most 150 products summed in another order, with outputs of order 1.
const TOLERANCE: f64 = 1e-5;

fn training_device() -> Device {
    let device = Device::default().autodiff();
    device.seed(11);
    device
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.3, 1.0), device)
}

/// A convolution and a batch norm that have trained: gamma, beta and the running statistics are nobody's defaults.
fn trained(config: &Conv2dConfig, device: &Device) -> (Conv2d, BatchNorm) {
    let channels = config.channels[1];
    let conv = config.init(device);
    let mut norm = BatchNormConfig::new(channels).with_momentum(0.4).init(device);
    norm.gamma = Initializer::Uniform { min: 0.5, max: 1.5 }.init([channels], device);
    norm.beta = Initializer::Uniform { min: -1.0, max: 1.0 }.init([channels], device);
    for _ in 0..3 {
        norm.forward(conv.forward(random([2, config.channels[0], 11, 9], device)));
    }
    (conv, norm)
}

/// Bias, groups, strides, dilation and paddings, in turn and together.
fn convolutions() -> Vec<Conv2dConfig> {
    vec![
        Conv2dConfig::new([4, 6], [3, 3]).with_bias(false),
        Conv2dConfig::new([4, 6], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)),
        Conv2dConfig::new([4, 6], [3, 5]).with_padding(PaddingConfig2d::Same).with_groups(2),
        Conv2dConfig::new([4, 4], [3, 3]).with_stride([2, 1]).with_groups(4),
        Conv2dConfig::new([4, 6], [3, 3]).with_dilation([2, 1]).with_padding(PaddingConfig2d::Same),
        Conv2dConfig::new([4, 8], [3, 2])
            .with_stride([2, 3])
            .with_dilation([1, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 2, 1, 2))
            .with_groups(2),
    ]
}

fn keeping_statistics() -> Vec<NormConfig> {
    vec![
        NormConfig::Batch(cbn::BatchNormConfig::default()),
        NormConfig::Sync(cbn::BatchNormConfig::default()),
        NormConfig::Frozen(FrozenNormConfig::default()),
        NormConfig::CrossIteration(CbnConfig::default()),
        NormConfig::Identity,
    ]
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

#[track_caller]
fn assert_close<const D: usize>(found: Tensor<D>, expected: Tensor<D>, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (floats(found), floats(expected));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied());
    assert!(error < TOLERANCE, "{what}: relative error {error:.1e}");
}

#[test]
fn inference_gives_the_outputs_of_burns_layers() {
    let device = training_device();
    for config in convolutions() {
        let (conv, norm) = trained(&config, &device);
        let x = random([2, 4, 10, 12], &Device::default());
        let expected = norm.valid().forward(conv.valid().forward(x.clone()));
        for norm_config in keeping_statistics() {
            let block = ConvNorm::from_conv_batch_norm(&conv, &norm, &norm_config).unwrap();
            let what = format!("{norm_config:?} behind {config}");
            assert_close(block.valid().forward_nchw(x.clone()), expected.clone(), &what);
            // The layers may be converted after they left training, too.
            let block = ConvNorm::from_conv_batch_norm(&conv.valid(), &norm.valid(), &norm_config).unwrap();
            assert_close(block.forward_nchw(x.clone()), expected.clone(), &what);
        }
    }
}

#[test]
fn training_gives_the_outputs_and_gradients_of_burns_layers() {
    let device = training_device();
    for config in convolutions() {
        let (conv, norm) = trained(&config, &device);
        let norm_config = NormConfig::Batch(cbn::BatchNormConfig::default());
        let block = ConvNorm::from_conv_batch_norm(&conv, &norm, &norm_config).unwrap();
        let x = random([2, 4, 10, 12], &device);
        let expected = norm.forward(conv.forward(x.clone()));
        let found = block.forward_nchw(x);
        assert_close(found.clone(), expected.clone(), &format!("{config}"));

        let direction = random(expected.dims(), &device);
        let expected_grads = (expected * direction.clone()).sum().backward();
        let grads = (found * direction).sum().backward();
        let grad = |weight: &Param<Tensor<4>>, grads| weight.val().grad(grads).unwrap();
        let expected_grad = conv.weight.val().grad(&expected_grads).unwrap();
        assert_close(grad(&block.weight, &grads), expected_grad, &format!("weight's gradient of {config}"));
        let Norm::Batch(ours) = &block.norm else { unreachable!("configured so") };
        for (ours, burns) in [(&ours.gamma, &norm.gamma), (&ours.beta, &norm.beta)] {
            let expected = burns.val().grad(&expected_grads).unwrap();
            assert_close(
                ours.val().grad(&grads).unwrap(),
                expected,
                &format!("gamma's or beta's gradient of {config}"),
            );
        }
    }
}

#[test]
fn a_folded_block_trains_where_the_layers_did() {
    let device = training_device();
    let (conv, norm) = trained(&Conv2dConfig::new([4, 6], [3, 3]), &device);
    for (conv, norm, trains) in [(conv.clone(), norm.clone(), true), (conv.freeze(), norm.freeze(), false)] {
        let block = ConvNorm::from_conv_batch_norm(&conv, &norm, &NormConfig::Identity).unwrap();
        let grads = block.forward_nchw(random([2, 4, 8, 8], &device).require_grad()).sum().backward();
        assert_eq!(block.weight.val().grad(&grads).is_some(), trains);
        assert_eq!(block.bias.unwrap().val().grad(&grads).is_some(), trains);
    }
}

#[test]
fn group_norm_keeps_gamma_and_beta() {
    let device = training_device();
    let (conv, norm) = trained(&Conv2dConfig::new([4, 6], [3, 3]), &device);
    let config = NormConfig::Group(GroupNormConfig::new(3));
    let block = ConvNorm::from_conv_batch_norm(&conv, &norm, &config).unwrap();
    assert!(block.bias.is_none());
    let Norm::Group(group) = &block.norm else { unreachable!("configured so") };
    assert_eq!(group.gamma.val().into_data(), norm.gamma.val().into_data());
    assert_eq!(group.beta.val().into_data(), norm.beta.val().into_data());
}

#[test]
fn a_frozen_layer_stays_frozen() {
    let device = training_device();
    let (conv, norm) = trained(&Conv2dConfig::new([4, 6], [3, 3]), &device);
    let (conv, norm) = (conv.freeze(), norm.freeze());
    let x = random([2, 4, 8, 8], &device);
    for config in keeping_statistics().into_iter().take(4) {
        let block = ConvNorm::from_conv_batch_norm(&conv, &norm, &config).unwrap();
        assert!(!block.weight.val().is_require_grad());
        let expected = norm.forward(conv.forward(x.clone()));
        assert_close(block.forward_nchw(x.clone()), expected, &format!("{config:?}"));
    }
}

#[test]
fn what_does_not_convert_says_what_to_do() {
    let device = training_device();
    let convert = |conv: Conv2dConfig, channels: usize| {
        let norm = BatchNormConfig::new(channels).init(&device);
        let config = NormConfig::Batch(cbn::BatchNormConfig::default());
        ConvNorm::from_conv_batch_norm(&conv.init(&device), &norm, &config).unwrap_err()
    };
    let conv = Conv2dConfig::new([4, 6], [3, 3]);
    assert_eq!(convert(conv.clone(), 8), ConvertError::ChannelsDiffer { conv: 6, norm: 8 });
    assert_eq!(
        convert(conv.clone().with_padding(PaddingConfig2d::Explicit(1, 1, 2, 1)), 6),
        ConvertError::AsymmetricPadding { top: 1, left: 1, bottom: 2, right: 1 }
    );
    assert_eq!(
        convert(conv.with_stride([2, 1]).with_padding(PaddingConfig2d::Same), 6),
        ConvertError::PaddingDependsOnInput { kernel: [3, 3], stride: [2, 1] }
    );
    let even = Conv2dConfig::new([4, 6], [2, 2]).with_padding(PaddingConfig2d::Same);
    let error = convert(even, 6);
    assert_eq!(error, ConvertError::PaddingDependsOnInput { kernel: [2, 2], stride: [1, 1] });
    assert!(error.to_string().contains("PaddingConfig2d::Explicit"), "{error}");
}
