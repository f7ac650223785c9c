//! Weights reordered once, for inference: a call then reads them as they are.

use std::sync::OnceLock;

use super::ConvShape;
use super::depthwise;
use super::microkernel::{PANEL, panel_width, panels_len};
use super::plan::Plan;
use super::winograd::{self, Tile};
use crate::isa::{Isa, Kernels};

/// The sizes of a weight `[K, C / groups, kh, kw]`: what is known of a convolution before its input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightShape {
    /// Channels of the output, K.
    pub out_channels: usize,
    /// Input channels of one group, C / groups.
    pub group_in: usize,
    /// Taps.
    pub kernel: [usize; 2],
    /// Channel groups.
    pub groups: usize,
}

impl WeightShape {
    /// Elements of the weight.
    pub fn len(&self) -> usize {
        self.out_channels * self.group_in * self.taps()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// A convolution that has this weight. The order of the packed values depends on nothing else.
    fn any_convolution(&self) -> ConvShape {
        ConvShape {
            batch: 0,
            in_channels: self.group_in * self.groups,
            in_height: 0,
            in_width: 0,
            out_channels: self.out_channels,
            kernel: self.kernel,
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            groups: self.groups,
        }
    }
}

/// A weight in the order in which the convolution reads it, for any number of calls of
/// [`conv2d_forward_packed`](super::conv2d_forward_packed).
///
/// It serves inputs of any size, and any stride, padding and dilation: the algorithm is chosen by each call, as
/// [`conv2d_forward`](super::conv2d_forward) does, so the results are the same bits.
///
/// # Memory
///
/// The panels of the matrix product: the weight once, with `K / groups` rounded up to 16. Where a call uses Winograd's
/// algorithm, from then on also the transformed filter: 36 or 64 numbers for each 9, that is four or seven times the weight; for
/// many small maps 196, twenty-two times the weight; for many maps of 7 x 7 by the Fourier transform 94, ten times. A depthwise
/// weight is held 17 times, but it is small. The original is not kept.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    shape: WeightShape,
    /// `[group][panel][tap][C / groups][width]`.
    panels: Vec<f32>,
    /// `[tap][C]`; empty unless the convolution is depthwise.
    by_tap: Vec<f32>,
    /// By [`Tile`].
    transformed: [OnceLock<Vec<f32>>; Tile::WITH_3_TAPS],
}

impl PackedWeight {
    /// Packs a weight `[K, C / groups, kh, kw]`.
    ///
    /// # Panics
    ///
    /// If the length does not fit the shape, a kernel side or `groups` is zero, or `groups` does not divide K.
    pub fn new(shape: WeightShape, weight: &[f32]) -> Self {
        assert_eq!(weight.len(), shape.len(), "length of a weight of {shape:?}");
        let convolution = shape.any_convolution();
        convolution.check();
        let plan = Plan::forward(&convolution);
        let mut panels = vec![0.0; plan.packed_len()];
        if !weight.is_empty() {
            plan.pack(Kernels::new(Isa::detect()), weight, &mut panels);
        }
        let mut by_tap = Vec::new();
        if depthwise::is_applicable(&convolution) && !weight.is_empty() {
            by_tap.resize(weight.len(), 0.0);
            depthwise::transpose(weight, shape.out_channels, &mut by_tap);
        }
        Self { shape, panels, by_tap, transformed: Default::default() }
    }

    /// The sizes of the weight.
    pub fn shape(&self) -> WeightShape {
        self.shape
    }

    /// All panels, as [`Plan::pack`] writes them.
    pub(crate) fn panels(&self) -> &[f32] {
        &self.panels
    }

    /// What [`depthwise`] reads, `[tap][C]`.
    pub(crate) fn by_tap(&self) -> &[f32] {
        &self.by_tap
    }

    /// The panel of output channels `first ..` of a group.
    pub(crate) fn panel(&self, group: usize, first: usize) -> &[f32] {
        let depth = self.shape.group_in * self.shape.taps();
        let group_out = self.shape.out_channels / self.shape.groups;
        let start = group * panels_len(group_out, depth) + first * depth;
        &self.panels[start..start + panel_width(group_out, first) * depth]
    }

    /// The filter in Winograd's domain. Its bits do not depend on the instruction set.
    ///
    /// Not `get_or_init`: a thread that waits for its part of the work may be given another convolution with this weight,
    /// which would wait for the first. Two threads that come first both transform, and one result is dropped.
    pub(crate) fn transformed(&self, kernels: Kernels, tile: Tile) -> &[f32] {
        let transformed = &self.transformed[tile as usize];
        if transformed.get().is_none() {
            let depth = self.shape.group_in * self.shape.taps();
            let panels: Vec<&[f32]> = self.panels.chunks(PANEL * depth).collect();
            let u = winograd::transform_panels(kernels, tile, &panels, [self.shape.group_in, self.shape.out_channels]);
            // An error says that another thread was faster, with the same values.
            let _ = transformed.set(u);
        }
        transformed.get().expect("set above or by another thread")
    }
}

/// What a convolution is given: a weight as it is, or packed.
#[derive(Clone, Copy)]
pub(crate) enum Weight<'a> {
    Plain(&'a [f32]),
    Packed(&'a PackedWeight),
}

impl Weight<'_> {
    /// Elements of the weight that it is, or was.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Plain(weight) => weight.len(),
            Self::Packed(packed) => packed.shape.len(),
        }
    }
}
