//! Tensors with autodiff and without, side by side: statistics are computed without, layers run with it.

use burn::tensor::{Device, Tensor};

/// The tensor without autodiff.
pub(crate) fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.device().is_autodiff() { x.inner() } else { x }
}

/// The tensor with autodiff, as a constant if it had none, where `device` has it; else without.
pub(crate) fn beside<const D: usize>(x: Tensor<D>, device: &Device) -> Tensor<D> {
    match (x.device().is_autodiff(), device.is_autodiff()) {
        (true, false) => x.inner(),
        (false, true) => Tensor::from_inner(x),
        _ => x,
    }
}
