//! What is kept of past iterations, and their moments under the current weight.

use burn::module::{Module, RunningState};
use burn::tensor::{Device, Tensor};

use super::super::ConvSite;
use crate::ops::{conv2d_weight_gradient, mean_patch};

/// The past iterations of the window: a ring of mean patches and second-moment gradients.
///
/// Tensors of fixed size, so that a checkpoint holds them like any other state. `W` is the number of past iterations kept.
#[derive(Module, Debug)]
pub struct History {
    /// Mean input patches, `[W, groups, D]` with `D = C_in / groups * kh * kw`.
    pub mean_patch: RunningState<Tensor<3>>,
    /// Gradients of the second moment with respect to the weight, `[W, C_out, D]`.
    pub second_gradient: RunningState<Tensor<3>>,
    /// Second moments, `[W, C_out]`.
    pub second: RunningState<Tensor<2>>,
    /// Iterations stored so far, `[1]`; the next one goes to the slot of this number modulo W.
    pub stored: RunningState<Tensor<1>>,
    /// W.
    pub capacity: usize,
}

/// The moments that a window agrees on, `[C]` each.
pub(super) struct WindowMoments {
    /// First moment.
    pub mean: Tensor<1>,
    /// Second moment.
    pub second: Tensor<1>,
    /// The weight of the current iteration in both.
    pub share: Tensor<1>,
}

impl WindowMoments {
    /// A window of the current iteration alone.
    pub fn of_current(mean: Tensor<1>, second: Tensor<1>) -> Self {
        let share = mean.ones_like();
        Self { mean, second, share }
    }
}

impl History {
    /// An empty history of `capacity` past iterations of a convolution with this weight, `[C_out, C_in / groups, kh, kw]`.
    pub(super) fn new(capacity: usize, weight_shape: [usize; 4], groups: usize, device: &Device) -> Self {
        let [out_channels, group_in, kernel_height, kernel_width] = weight_shape;
        let patch_len = group_in * kernel_height * kernel_width;
        Self {
            mean_patch: RunningState::new(Tensor::zeros([capacity, groups, patch_len], device)),
            second_gradient: RunningState::new(Tensor::zeros([capacity, out_channels, patch_len], device)),
            second: RunningState::new(Tensor::zeros([capacity, out_channels], device)),
            stored: RunningState::new(Tensor::zeros([1], device)),
            capacity,
        }
    }

    /// The average of the current moments and those of the past iterations under the current `weight`, invalid ones left out.
    pub(super) fn aggregate(&self, mean: Tensor<1>, second: Tensor<1>, weight: &Tensor<4>) -> WindowMoments {
        let filled = self.num_stored().min(self.capacity);
        if filled == 0 {
            return WindowMoments::of_current(mean, second);
        }
        let [past_mean, past_second] = self.compensated(filled, weight);
        let is_valid = past_second.clone().greater_equal(past_mean.clone().square()).float();
        let count = is_valid.clone().sum_dim(0).squeeze_dim::<1>(0) + 1.0;
        let sum = |past: Tensor<2>, current: Tensor<1>| {
            ((past * is_valid.clone()).sum_dim(0).squeeze_dim::<1>(0) + current) / count.clone()
        };
        WindowMoments { mean: sum(past_mean, mean), second: sum(past_second, second), share: count.clone().recip() }
    }

    /// First and second moments of the stored iterations under `weight`, `[filled, C_out]` each.
    fn compensated(&self, filled: usize, weight: &Tensor<4>) -> [Tensor<2>; 2] {
        let [_, groups, patch_len] = self.mean_patch.value().dims();
        let out_channels = weight.dims()[0];
        let weight = weight.clone().reshape([1, out_channels, patch_len]);
        let grouped = weight.clone().reshape([1, groups, out_channels / groups, patch_len]);
        let patch = self.mean_patch.value_sync().inner().slice([0..filled]).reshape([filled, groups, 1, patch_len]);
        let mean = (patch * grouped).sum_dim(3).reshape([filled, out_channels]);
        let gradient = self.second_gradient.value_sync().inner().slice([0..filled]);
        let linear = (gradient * weight).sum_dim(2).squeeze_dim::<2>(2);
        [mean, linear - self.second.value_sync().inner().slice([0..filled])]
    }

    /// Stores the current iteration in the place of the oldest: its output `[B, H, W, C_out]` and second moment `[C_out]`.
    pub(super) fn push(&self, site: &ConvSite<'_>, output: Tensor<4>, second: Tensor<1>) {
        if self.capacity == 0 {
            return;
        }
        let [batch, height, width, out_channels] = output.dims();
        let weight_shape = site.weight.dims();
        let [_, group_in, kernel_height, kernel_width] = weight_shape;
        let patch_len = group_in * kernel_height * kernel_width;
        let input = site.input.nhwc().clone().inner();
        let patch = mean_patch(input.clone(), [kernel_height, kernel_width], site.geometry);
        let factor = 2.0 / (batch * height * width) as f64;
        let gradient = conv2d_weight_gradient(input, output, weight_shape, site.geometry) * factor;

        let slot = self.num_stored() % self.capacity;
        replace(&self.mean_patch, slot, patch.reshape([1, site.geometry.groups, patch_len]));
        replace(&self.second_gradient, slot, gradient.reshape([1, out_channels, patch_len]));
        replace(&self.second, slot, second.reshape([1, out_channels]));
        self.stored.update(self.stored.value_sync() + 1.0);
    }

    fn num_stored(&self) -> usize {
        self.stored.value_sync().into_scalar::<f32>() as usize
    }
}

/// Writes `entry` into one slot of a ring.
fn replace<const D: usize>(ring: &RunningState<Tensor<D>>, slot: usize, entry: Tensor<D>) {
    let updated = ring.value_sync().inner().slice_assign([slot..slot + 1], entry);
    ring.update(Tensor::from_inner(updated));
}
