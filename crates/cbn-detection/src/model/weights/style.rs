//! What a trained ResNet expects of its surroundings, which its tensors do not tell.

use serde::{Deserialize, Serialize};

use super::{WeightLayout, WeightsError};
use crate::model::backbone::ResNet;

/// The ways in which published ResNets were trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackboneStyle {
    /// torchvision's: RGB, pixels divided by [`PIXEL_STD`], the resolution halved in a bottleneck's 3x3 convolution.
    Pytorch,
    /// Microsoft Research's of 2015: BGR, pixels not divided, the resolution halved in the first 1x1 convolution.
    Caffe,
    /// Facebook's, trained by Caffe2: BGR, pixels not divided, the resolution halved in the 3x3 convolution (detectron2's `R-50-GN`).
    Caffe2,
}

/// The standard deviation of pixels in red, green and blue that recipes divide by (ImageNet's, times 255).
pub const PIXEL_STD: [f32; 3] = [58.395, 57.12, 57.375];

impl BackboneStyle {
    /// What is usual for files of a layout: detectron2's model zoo trains from Caffe's weights, the others from torchvision's.
    pub fn usual(layout: WeightLayout) -> Self {
        match layout {
            WeightLayout::Detectron2 => Self::Caffe,
            WeightLayout::Cbn | WeightLayout::Torchvision | WeightLayout::Mmdet | WeightLayout::Mmdet2 => Self::Pytorch,
        }
    }

    /// Refuses a network that halves the resolution elsewhere: the same weights would compute something else.
    pub(super) fn check(self, backbone: &ResNet, layout: WeightLayout) -> Result<(), WeightsError> {
        match (self, backbone.has_stride_in_1x1()) {
            (Self::Caffe, Some(false)) => Err(WeightsError::StrideIn1x1 { layout }),
            // Its own weights say nothing about it.
            (Self::Pytorch, Some(true)) if layout != WeightLayout::Cbn => Err(WeightsError::StrideIn3x3),
            (Self::Caffe2, Some(true)) => Err(WeightsError::StrideIn3x3),
            _ => Ok(()),
        }
    }

    /// Makes the stem's weight `[C_out, 3, kh, kw]` one for RGB pixels that are divided by [`PIXEL_STD`].
    ///
    /// All styles subtract the same mean, so `w_bgr . (p - mean) = (std w_rgb) . ((p - mean) / std)` holds for padded pixels as well.
    pub(super) fn fit_stem(self, values: &mut [f32], shape: &[usize]) {
        if self == Self::Pytorch {
            return;
        }
        let taps: usize = shape[2..].iter().product();
        for filter in values.chunks_exact_mut(3 * taps) {
            let (blue, rest) = filter.split_at_mut(taps);
            blue.swap_with_slice(&mut rest[taps..]);
            for (channel, std) in filter.chunks_exact_mut(taps).zip(PIXEL_STD) {
                channel.iter_mut().for_each(|weight| *weight *= std);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caffe_stem_sees_the_same_picture_in_rgb() {
        let bgr = [0.5_f32, -2.0, 3.0];
        let [red, green, blue] = [90.0_f32, -20.0, 7.0];
        let expected = bgr[0] * blue + bgr[1] * green + bgr[2] * red;
        let mut weights = bgr;
        BackboneStyle::Caffe.fit_stem(&mut weights, &[1, 3, 1, 1]);
        let found: f32 = weights
            .iter()
            .zip([red, green, blue])
            .zip(PIXEL_STD)
            .map(|((weight, pixel), std)| weight * (pixel / std))
            .sum();
        // Three roundings of a sum of about 300.
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
}
