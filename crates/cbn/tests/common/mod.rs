//! What the tests of the layers share.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod reference;

use burn::module::Param;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use cbn::norm::CrossIterationBatchNorm;
use cbn::{CbnConfig, ConvNorm, ConvNormConfig, Norm, NormConfig};

pub fn training_device() -> Device {
    let device = Device::default().autodiff();
    device.seed(7);
    device
}

/// 4 to 6 channels, 3 x 3.
pub fn block(norm: NormConfig, device: &Device) -> ConvNorm {
    ConvNormConfig::new([4, 6], [3, 3]).with_padding([1, 1]).with_norm(norm).init(device)
}

pub fn cbn(config: CbnConfig) -> NormConfig {
    NormConfig::CrossIteration(config)
}

pub fn cbn_of(layer: &ConvNorm) -> &CrossIterationBatchNorm {
    let Norm::CrossIteration(norm) = &layer.norm else { panic!("a cross-iteration norm, found {:?}", layer.norm) };
    norm
}

pub fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::random(shape, Distribution::Normal(0.3, 1.0), device)
}

pub fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("the layers compute in f32")
}

pub fn max_difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    floats(a).iter().zip(floats(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// `|a - b| / |b|`, L2.
pub fn relative_error(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - b)) / norm(&mut b.iter().copied())
}

/// The same block with another convolution weight.
pub fn with_weight(layer: ConvNorm, weight: &Tensor<4>) -> ConvNorm {
    let weight = Tensor::from_data(weight.clone().into_data(), &layer.weight.device());
    ConvNorm { weight: layer.weight.clone().map(|_| weight.require_grad()), ..layer }
}

/// The same weight behind another norm.
pub fn with_weight_of(layer: ConvNorm, other: &ConvNorm) -> ConvNorm {
    ConvNorm { weight: other.weight.clone(), ..layer }
}

/// A trained parameter with these values.
pub fn param(values: &[f64], old: &Param<Tensor<1>>) -> Param<Tensor<1>> {
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    let tensor = Tensor::from_data(TensorData::new(values, [old.dims()[0]]), &old.device());
    old.clone().map(|_| tensor.require_grad())
}
