//! How a convolution walks over its input.

use cbn_kernels::ConvShape;
use serde::{Deserialize, Serialize};

/// Stride, padding, dilation and groups of a 2-d convolution, rows before columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvGeometry {
    /// Step between output positions, in input pixels.
    pub stride: [usize; 2],
    /// Zeros around the input, on each side.
    pub padding: [usize; 2],
    /// Distance between kernel taps, in input pixels.
    pub dilation: [usize; 2],
    /// Channels are split into so many independent convolutions.
    pub groups: usize,
}

impl Default for ConvGeometry {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

impl ConvGeometry {
    /// All sizes of the convolution of an input `[B, H, W, C_in]` with a weight `[C_out, C_in / groups, kh, kw]`.
    pub(crate) fn shape(&self, input: [usize; 4], weight: [usize; 4]) -> ConvShape {
        let [batch, in_height, in_width, in_channels] = input;
        let [out_channels, _, kernel_height, kernel_width] = weight;
        ConvShape {
            batch,
            in_channels,
            in_height,
            in_width,
            out_channels,
            kernel: [kernel_height, kernel_width],
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
            groups: self.groups,
        }
    }
}
