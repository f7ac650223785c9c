//! A convolution that leaves behind the gradient of its output's second moment.
//!
//! That is a weight gradient with the output as upstream gradient. The backward pass computes the ordinary weight gradient from the same
//! input, so both together cost less than one after the other.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch};
use burn::tensor::Tensor;

use super::{KernelBackend, conv2d_weight_gradient};
use crate::{ConvGeometry, FeatureMap};

/// Where a convolution's backward pass leaves `sum_m y_m p_m`, the weight gradient with its own output upstream.
///
/// Until then the cell holds what the gradient can be computed from, for a training step without a backward pass.
#[derive(Clone, Debug, Default)]
pub struct SecondGradientCell(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Empty,
    /// Input and output.
    Waiting(Box<[Tensor<4>; 2]>),
    /// A `FloatTensor<B>` of the backend that computed it.
    Ready(Box<dyn Any + Send>),
}

impl SecondGradientCell {
    /// What the gradient is of, without autodiff.
    pub(crate) fn wait(&self, x: Tensor<4>, y: Tensor<4>) {
        *self.lock() = State::Waiting(Box::new([x, y]));
    }

    /// Leaves the gradient, and lets go of what it was computed from.
    pub(super) fn leave<B: Backend>(&self, gradient: FloatTensor<B>) {
        *self.lock() = State::Ready(Box::new(gradient));
    }

    /// Takes the gradient, `[C_out, C_in / groups, kh, kw]`: the one left, or computes it. `beside` tells the backend.
    pub(crate) fn take(&self, weight_shape: [usize; 4], geometry: &ConvGeometry, beside: Tensor<1>) -> Tensor<4> {
        let state = std::mem::take(&mut *self.lock());
        match state {
            State::Waiting(maps) => {
                let [x, y] = *maps;
                conv2d_weight_gradient(x, y, weight_shape, geometry)
            }
            ready => {
                *self.lock() = ready;
                Tensor::from_dispatch(Dispatch::channels_last_take(beside.into_dispatch(), self.clone()))
            }
        }
    }

    pub(super) fn take_ready<B: Backend>(&self) -> FloatTensor<B> {
        let State::Ready(gradient) = std::mem::take(&mut *self.lock()) else {
            panic!("a gradient is taken once, after it was waited for or left")
        };
        *gradient
            .downcast()
            .expect("a history is read on the backend that computed it, or moved from there as a tensor")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`conv2d`](super::conv2d) whose backward pass leaves a second gradient in `cell`, if the weight trains.
pub(crate) fn conv2d_remembering(
    x: &FeatureMap,
    weight: &Tensor<4>,
    geometry: &ConvGeometry,
    cell: &SecondGradientCell,
) -> FeatureMap {
    super::conv::check_channels(x, weight, geometry.groups);
    let (x, weight) = (x.nhwc().clone().into_dispatch(), weight.clone().into_dispatch());
    let y = Dispatch::channels_last_conv2d_remembering(x, weight, *geometry, cell.clone());
    FeatureMap::from_nhwc(Tensor::from_dispatch(y))
}
