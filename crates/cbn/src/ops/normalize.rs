//! Moments and normalisation.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::{GroupNormOptions, KernelBackend};
use crate::context::beside;
use crate::process_group::Peers;
use crate::{Activation, FeatureMap};

/// What a map is normalised with, per channel, `[C]` each.
///
/// `inv_std` is a function of `var`, whose derivative is `slope`; the other factors are constants. The map's own moments count in the mean
/// and the variance used with the weight `share`: with `mu` and `nu` its own mean and mean of squares, the mean used is `share * mu + ..`
/// and the second moment used, `var + mean^2`, is `share * nu + ..`. What else `mean` and `var` depend on is for autodiff: they may be
/// results of differentiable operations. Tensors without autodiff are constants beside a map that has it.
pub struct ChannelStatistics {
    /// Subtracted.
    pub mean: Tensor<1>,
    /// The biased variance.
    pub var: Tensor<1>,
    /// Multiplied: `1 / sqrt(var + eps)`, or `1 / (sqrt(var) + eps)`.
    pub inv_std: Tensor<1>,
    /// `d inv_std / d var`.
    pub slope: Tensor<1>,
    /// The weight of the map's own moments in those used: 1 is batch norm, 0 fixed statistics, `1 / n` a window of n iterations.
    pub share: Tensor<1>,
    /// Whose maps that are: with peers, the moments are those of all their maps together, and each normalises its own.
    pub peers: Peers,
}

/// Mean and biased variance of each channel. Not differentiable itself: call it on a tensor without autodiff.
///
/// # Shapes
///
/// `y`: `[B, H, W, C]`, results `[C]`.
pub fn channel_moments(y: Tensor<4>) -> [Tensor<1>; 2] {
    let moments: Tensor<2> = Tensor::from_dispatch(Dispatch::channels_last_moments(y.into_dispatch()));
    [0, 1].map(|i| moments.clone().slice([i..i + 1]).squeeze_dim(0))
}

/// The dot product of each row of `b` with its row of `a`: row r of R belongs to row `r / (R / G)` of a. Differentiable in `b`.
///
/// # Shapes
///
/// `a`: `[G, D]`, `b`: `[R, D]`, result `[R]`; G divides R.
///
/// # Panics
///
/// If the shapes do not fit each other.
pub fn row_dots(a: Tensor<2>, b: Tensor<2>) -> Tensor<1> {
    let ([groups, len], [rows, row_len]) = (a.dims(), b.dims());
    assert!(len == row_len && rows.is_multiple_of(groups), "rows {:?} with rows {:?}", a.dims(), b.dims());
    Tensor::from_dispatch(Dispatch::channels_last_row_dots(a.into_dispatch(), b.into_dispatch()))
}

/// `activation(gamma * (y - mean) * inv_std + beta)`, differentiable in y, gamma and beta, in y through its share of the statistics too, and in
/// the mean and the variance, see [`ChannelStatistics`].
///
/// # Shapes
///
/// `y`: `[B, H, W, C]`, `gamma` and `beta`: `[C]`.
pub fn normalize(
    y: FeatureMap,
    [gamma, beta]: [Tensor<1>; 2],
    statistics: ChannelStatistics,
    activation: Activation,
) -> FeatureMap {
    let device = y.device();
    let ChannelStatistics { mean, var, inv_std, slope, share, peers } = statistics;
    let [mean, var, inv_std, slope, share] = [mean, var, inv_std, slope, share].map(|x| beside(x, &device));
    let moments: Tensor<2> = Tensor::stack(vec![mean, var], 0);
    let factors: Tensor<2> = Tensor::stack(vec![inv_std, slope, share], 0);
    let out = Dispatch::channels_last_normalize(
        y.into_nhwc().into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        moments.into_dispatch(),
        factors.into_dispatch(),
        activation.is_relu(),
        peers,
    );
    FeatureMap::from_nhwc(Tensor::from_dispatch(out))
}

/// `activation(gamma * (x - mean) / sqrt(var + eps) + beta)` with the moments of each image and group of channels, differentiable in
/// x, gamma and beta.
///
/// # Shapes
///
/// `x`: `[B, H, W, C]`, `gamma` and `beta`: `[C]`; the groups divide C.
pub fn group_normalize(
    x: FeatureMap,
    [gamma, beta]: [Tensor<1>; 2],
    groups: usize,
    epsilon: f64,
    activation: Activation,
) -> FeatureMap {
    let options = GroupNormOptions { groups, epsilon, relu: activation.is_relu() };
    let (x, gamma, beta) = (x.into_nhwc().into_dispatch(), gamma.into_dispatch(), beta.into_dispatch());
    FeatureMap::from_nhwc(Tensor::from_dispatch(Dispatch::channels_last_group_norm(x, gamma, beta, options)))
}
