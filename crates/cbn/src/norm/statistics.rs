//! What the norms with channel statistics share.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::buffer::Buffer;
use crate::FeatureMap;
use crate::context::plain;
use crate::ops::{self, ChannelStatistics};
use crate::process_group::Peers;

/// Where eps is added.
///
/// With eps 1e-5 the largest gain is 316 inside the root and 100,000 outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpsilonPlace {
    /// `sqrt(var + eps)`, as batch norm, group norm and the paper have it.
    #[default]
    InsideRoot,
    /// `sqrt(var) + eps`, as the released CBN layer has it by default.
    OutsideRoot,
}

/// Keeps a division by zero out of normalisation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epsilon {
    pub value: f64,
    pub place: EpsilonPlace,
}

impl Epsilon {
    pub fn inside(value: f64) -> Self {
        Self { value, place: EpsilonPlace::InsideRoot }
    }

    /// `1 / std` and its derivative with respect to the variance.
    pub fn inv_std(self, var: &Tensor<1>) -> [Tensor<1>; 2] {
        match self.place {
            EpsilonPlace::InsideRoot => {
                let inv_std = (var.clone() + self.value).sqrt().recip();
                let slope = inv_std.clone().powi_scalar(3) * -0.5;
                [inv_std, slope]
            }
            EpsilonPlace::OutsideRoot => {
                let std = var.clone().sqrt();
                let inv_std = (std.clone() + self.value).recip();
                let slope = inv_std.clone().square() * std.clone().recip() * -0.5;
                // The derivative has no limit at a variance of 0; a constant channel passes no gradient to its variance.
                [inv_std, slope.mask_fill(std.equal_scalar(0.0), 0.0)]
            }
        }
    }
}

/// Mean and biased variance of each channel, `[C]`.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    pub mean: Tensor<1>,
    pub var: Tensor<1>,
}

impl Moments {
    /// Of this map, without autodiff.
    pub fn of(y: &FeatureMap) -> Self {
        let [mean, var] = ops::channel_moments(plain(y.nhwc().clone()));
        Self { mean, var }
    }

    /// Of the maps of all peers together, and how many values a channel has there. A map may be empty.
    pub fn over(y: &FeatureMap, peers: &Peers) -> (Self, usize) {
        let own_positions = positions(y);
        if peers.is_alone() && own_positions > 0 {
            return (Self::of(y), own_positions);
        }
        let (device, channels) = (plain(y.nhwc().clone()).device(), y.channels());
        let count = own_positions as f64;
        let mut sums = vec![0.0; 2 * channels + 1];
        sums[2 * channels] = count;
        if own_positions > 0 {
            let own = Self::of(y);
            let [mean, var] = [own.mean, own.var].map(host);
            for c in 0..channels {
                // In double precision, so that the difference below keeps the digits that f32 has.
                sums[c] = count * mean[c];
                sums[channels + c] = count * (var[c] + mean[c] * mean[c]);
            }
        }
        peers.sum_f64(&mut sums);
        let total = sums[2 * channels].max(1.0);
        let mean: Vec<f64> = sums[..channels].iter().map(|sum| sum / total).collect();
        let seconds = sums[channels..2 * channels].iter().map(|sum| sum / total);
        let var = seconds.zip(&mean).map(|(second, mean)| (second - mean * mean).max(0.0) as f32).collect();
        let mean = mean.into_iter().map(|mean| mean as f32).collect();
        let [mean, var] =
            [mean, var].map(|values: Vec<f32>| Tensor::from_data(TensorData::new(values, [channels]), &device));
        (Self { mean, var }, sums[2 * channels] as usize)
    }

    /// The same as constants.
    pub fn without_autodiff(&self) -> Self {
        Self { mean: plain(self.mean.clone()), var: plain(self.var.clone()) }
    }

    /// As statistics of a map in which its own moments have this share.
    ///
    /// The variance is multiplied by `correction` on the way: `M / (M - 1)` makes it the unbiased one. The map is that of one process; see
    /// [`ChannelStatistics::peers`].
    pub fn statistics(self, epsilon: Epsilon, share: Tensor<1>, correction: f64) -> ChannelStatistics {
        let [inv_std, slope] = epsilon.inv_std(&(self.without_autodiff().var * correction));
        let slope = slope * correction;
        ChannelStatistics { mean: self.mean, var: self.var, inv_std, slope, share, peers: Peers::default() }
    }
}

/// Running mean and variance of a layer.
pub(super) struct Running<'a> {
    pub mean: &'a Buffer<1>,
    pub var: &'a Buffer<1>,
}

impl Running<'_> {
    /// Statistics that do not depend on the map.
    pub fn statistics(&self, epsilon: Epsilon) -> ChannelStatistics {
        let (mean, var) = (self.mean.value(), self.var.value());
        let none = mean.zeros_like();
        Moments { mean, var }.statistics(epsilon, none, 1.0)
    }

    /// Scale and shift that do what these statistics with gamma and beta do, `[C]` each.
    pub fn affine(&self, epsilon: Epsilon, gamma: &Tensor<1>, beta: &Tensor<1>) -> [Tensor<1>; 2] {
        let [inv_std, _] = epsilon.inv_std(&self.var.value());
        let scale = gamma.clone() * inv_std;
        let shift = beta.clone() - self.mean.value() * scale.clone();
        [scale, shift]
    }

    /// One more observation: `running * (1 - momentum) + observed * momentum`.
    pub fn observe(&self, mean: Tensor<1>, var: Tensor<1>, momentum: f64) {
        for (buffer, observed) in [(self.mean, mean), (self.var, var)] {
            buffer.set(plain(buffer.value()) * (1.0 - momentum) + observed * momentum);
        }
    }
}

/// The mean of the peers' tensors, each of which counts `weight`; where that is 0, its value does not matter.
pub(super) fn mean_over<const D: usize>(x: Tensor<D>, weight: usize, peers: &Peers) -> Tensor<D> {
    if peers.is_alone() {
        return x;
    }
    let (device, shape) = (x.device(), x.dims());
    let mut sums: Vec<f64> = match weight {
        0 => vec![0.0; shape.iter().product()],
        weight => host(x).into_iter().map(|value| value * weight as f64).collect(),
    };
    sums.push(weight as f64);
    peers.sum_f64(&mut sums);
    let total = sums.pop().unwrap_or(0.0).max(1.0);
    let values: Vec<f32> = sums.into_iter().map(|sum| (sum / total) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &device)
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// How many values a channel has.
pub(super) fn positions(y: &FeatureMap) -> usize {
    let [batch, height, width, _] = y.dims();
    batch * height * width
}

/// What makes the unbiased variance of a biased one of `count` values; of a single value there is none, so it is kept.
pub(super) fn unbiased_correction(count: usize) -> f64 {
    if count > 1 { count as f64 / (count - 1) as f64 } else { 1.0 }
}
