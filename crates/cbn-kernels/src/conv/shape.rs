//! The sizes of a convolution.

use super::WeightShape;

/// A 2-d convolution: `[B, H, W, C] * [K, C / groups, kh, kw] -> [B, H', W', K]`.
///
/// Maps are channels-last, weights are as PyTorch has them. Pairs are (vertical, horizontal). Padding is with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Images, B.
    pub batch: usize,
    /// Channels of the input, C.
    pub in_channels: usize,
    /// Rows of the input, H.
    pub in_height: usize,
    /// Columns of the input, W.
    pub in_width: usize,
    /// Channels of the output, K.
    pub out_channels: usize,
    /// Taps.
    pub kernel: [usize; 2],
    /// Input pixels between neighbouring outputs.
    pub stride: [usize; 2],
    /// Zeros on each side.
    pub padding: [usize; 2],
    /// Input pixels between neighbouring taps.
    pub dilation: [usize; 2],
    /// Channel groups.
    pub groups: usize,
}

impl ConvShape {
    /// Rows of the output, H'.
    pub fn out_height(&self) -> usize {
        self.out_extent(self.in_height, 0)
    }

    /// Columns of the output, W'.
    pub fn out_width(&self) -> usize {
        self.out_extent(self.in_width, 1)
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.in_height * self.in_width * self.in_channels
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_height() * self.out_width() * self.out_channels
    }

    /// Elements of the weight.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.group_in() * self.taps()
    }

    /// The sizes of the weight.
    pub fn weight_shape(&self) -> WeightShape {
        WeightShape {
            out_channels: self.out_channels,
            group_in: self.group_in(),
            kernel: self.kernel,
            groups: self.groups,
        }
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Input channels of one group.
    pub fn group_in(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels of one group.
    pub fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    fn out_extent(&self, extent: usize, axis: usize) -> usize {
        let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
        let padded = extent + 2 * self.padding[axis];
        if padded < reach { 0 } else { (padded - reach) / self.stride[axis] + 1 }
    }

    /// # Panics
    ///
    /// If a count that must be positive is zero, or the groups do not divide the channels.
    pub(crate) fn check(&self) {
        let positive = self.kernel.iter().chain(&self.stride).chain(&self.dilation).all(|&n| n > 0);
        assert!(positive && self.groups > 0, "kernel, stride, dilation and groups are at least 1: {self:?}");
        assert!(
            self.in_channels.is_multiple_of(self.groups) && self.out_channels.is_multiple_of(self.groups),
            "groups divide both channel counts: {self:?}"
        );
    }
}
