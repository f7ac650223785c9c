//! Fully connected layers.

use burn::backend::{Backend, Dispatch, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{Shape, Tensor};

use super::{KernelBackend, PackedWeightCache};
use crate::Activation;

/// `activation(x W + b)`, differentiable in all three.
///
/// # Shapes
///
/// `x`: `[N, D_in]`, `weight`: `[D_in, D_out]`, `bias`: `[D_out]`, result `[N, D_out]`.
///
/// # Panics
///
/// If the shapes do not fit each other.
pub fn linear(
    x: Tensor<2>,
    (weight, bias): (Tensor<2>, Tensor<1>),
    activation: Activation,
    packed: &PackedWeightCache,
) -> Tensor<2> {
    let ([_, found], [inputs, outputs], [biases]) = (x.dims(), weight.dims(), bias.dims());
    assert!(
        found == inputs && biases == outputs,
        "a fully connected layer from {inputs} to {outputs} features, found {found} and a bias of {biases}"
    );
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::channels_last_linear(x, weight, bias, activation.is_relu(), packed.share()))
}

pub(super) fn reference<B: Backend>([x, weight, bias]: [FloatTensor<B>; 3], relu: bool) -> FloatTensor<B> {
    let outputs = bias.shape().num_elements();
    let y = B::float_add(B::float_matmul(x, weight), B::float_reshape(bias, Shape::from([1, outputs])));
    if relu { B::relu(y) } else { y }
}
