//! Channels-last feature maps.

use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

/// A feature map, channels last: a contiguous `[B, H, W, C]` tensor.
///
/// A type of its own, so that nobody mixes this layout with Burn's `[B, C, H, W]`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use cbn::FeatureMap;
///
/// let images = Tensor::<4>::zeros([2, 3, 32, 48], &Device::flex());
/// let map = FeatureMap::from_nchw(images);
/// assert_eq!(map.dims(), [2, 32, 48, 3]);
/// assert_eq!(map.relu().to_nchw().dims(), [2, 3, 32, 48]);
/// ```
#[derive(Clone, Debug)]
pub struct FeatureMap(Tensor<4>);

impl FeatureMap {
    /// From Burn's layout.
    ///
    /// # Shapes
    ///
    /// `[B, C, H, W]`
    pub fn from_nchw(x: Tensor<4>) -> Self {
        Self(x.permute([0, 2, 3, 1]))
    }

    /// To Burn's layout.
    ///
    /// # Shapes
    ///
    /// `[B, C, H, W]`
    pub fn to_nchw(&self) -> Tensor<4> {
        self.0.clone().permute([0, 3, 1, 2])
    }

    /// From a tensor that is channels-last already.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C]`
    pub fn from_nhwc(x: Tensor<4>) -> Self {
        Self(x)
    }

    /// The tensor, `[B, H, W, C]`.
    pub fn into_nhwc(self) -> Tensor<4> {
        self.0
    }

    /// The tensor, `[B, H, W, C]`.
    pub fn nhwc(&self) -> &Tensor<4> {
        &self.0
    }

    /// B, H, W, C.
    pub fn dims(&self) -> [usize; 4] {
        self.0.dims()
    }

    /// Images, B.
    pub fn batch(&self) -> usize {
        self.dims()[0]
    }

    /// Rows, H.
    pub fn height(&self) -> usize {
        self.dims()[1]
    }

    /// Columns, W.
    pub fn width(&self) -> usize {
        self.dims()[2]
    }

    /// Channels, C.
    pub fn channels(&self) -> usize {
        self.dims()[3]
    }

    /// Where the map lives.
    pub fn device(&self) -> Device {
        self.0.device()
    }

    /// The sum of two maps of one shape.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "reads as a step of a model, beside relu")]
    pub fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// `max(x, 0)`.
    #[must_use]
    pub fn relu(self) -> Self {
        Self(relu(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_round_trip() {
        let device = Device::default();
        let x =
            Tensor::<1>::from_floats(std::array::from_fn::<f32, 24, _>(|i| i as f32), &device).reshape([1, 2, 3, 4]);
        let map = FeatureMap::from_nchw(x.clone());
        assert_eq!(map.dims(), [1, 3, 4, 2]);
        assert_eq!(map.to_nchw().into_data(), x.into_data());
    }
}
