//! What an optimiser does with every weight.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch};
use burn::tensor::Tensor;
pub use cbn_kernels::SgdStep;

use super::{KernelBackend, Moved};

/// The sum of all values' squares, `[1]`. Not differentiable: call it on a tensor without autodiff.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::channels_last_sum_of_squares(x.into_dispatch()))
}

/// The weight and the velocity after a [`SgdStep`]; without a velocity it is the weight's first. Not differentiable: call it on tensors
/// without autodiff. Weight and velocity are written over where nobody else holds them.
///
/// # Shapes
///
/// All have one shape.
///
/// # Panics
///
/// If they do not.
pub fn sgd_step<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Option<Tensor<D>>,
    step: SgdStep,
) -> [Tensor<D>; 2] {
    let velocity = velocity.unwrap_or_else(|| gradient.zeros_like());
    let dims = [weight.dims(), gradient.dims(), velocity.dims()];
    assert!(dims[0] == dims[1] && dims[0] == dims[2], "weight, gradient and velocity are {dims:?}");
    let (weight, gradient, velocity) = (weight.into_dispatch(), gradient.into_dispatch(), velocity.into_dispatch());
    let Moved { weight, velocity } = Dispatch::channels_last_sgd_step(weight, gradient, velocity, step);
    [weight, velocity].map(Tensor::from_dispatch)
}

/// The definition of [`sgd_step`].
pub(super) fn reference<B: Backend>(
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    velocity: FloatTensor<B>,
    step: SgdStep,
) -> [FloatTensor<B>; 2] {
    let times = |x: FloatTensor<B>, factor: f32| B::float_mul_scalar(x, factor.into());
    let decay = times(weight.clone(), step.weight_decay);
    let gradient = B::float_add(times(gradient, step.gradient_scale), decay);
    let velocity = B::float_add(times(velocity, step.momentum), gradient);
    let weight = B::float_sub(weight, times(velocity.clone(), step.learning_rate));
    [weight, velocity]
}
