//! Channel moments, and the normalisation that every norm of this crate but group norm ends in.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::KernelBackend;
use crate::FeatureMap;

/// What a map is normalised with, per channel, `[C]` each.
///
/// The statistics enter as values; how they depend on the map itself is what the last two say. With `mu` and `nu` the map's own
/// mean and mean of squares, the mean used is `share * mu + constant` and the second moment used is `share * nu + constant`.
pub struct ChannelStatistics {
    /// Subtracted.
    pub mean: Tensor<1>,
    /// Multiplied: `1 / sqrt(var + eps)`, or `1 / (sqrt(var) + eps)`.
    pub inv_std: Tensor<1>,
    /// `d inv_std / d nu`, where `nu` is the second moment used.
    pub slope: Tensor<1>,
    /// The weight of the map's own moments in those used: 1 is batch norm, 0 fixed statistics, `1 / n` a window of n iterations.
    pub share: Tensor<1>,
}

impl ChannelStatistics {
    /// Statistics computed without autodiff, as constants beside tensors that have it.
    pub(crate) fn on_training_device(self) -> Self {
        let [mean, inv_std, slope, share] = [self.mean, self.inv_std, self.slope, self.share].map(Tensor::from_inner);
        Self { mean, inv_std, slope, share }
    }
}

/// Mean and mean of squares of each channel. Not differentiable itself: call it on a tensor without autodiff.
///
/// # Shapes
///
/// `y`: `[B, H, W, C]`, results `[C]`.
pub fn channel_moments(y: Tensor<4>) -> [Tensor<1>; 2] {
    let moments: Tensor<2> = Tensor::from_dispatch(Dispatch::channels_last_moments(y.into_dispatch()));
    [0, 1].map(|i| moments.clone().slice([i..i + 1]).squeeze_dim(0))
}

/// `gamma * (y - mean) * inv_std + beta`, differentiable in y, gamma and beta, through the map's own share in the statistics.
///
/// # Shapes
///
/// `y`: `[B, H, W, C]`, `gamma` and `beta`: `[C]`.
pub fn normalize(y: FeatureMap, gamma: Tensor<1>, beta: Tensor<1>, statistics: ChannelStatistics) -> FeatureMap {
    let ChannelStatistics { mean, inv_std, slope, share } = statistics;
    let statistics: Tensor<2> = Tensor::stack(vec![mean, inv_std, slope, share], 0);
    let out = Dispatch::channels_last_normalize(
        y.into_nhwc().into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        statistics.into_dispatch(),
    );
    FeatureMap::from_nhwc(Tensor::from_dispatch(out))
}
