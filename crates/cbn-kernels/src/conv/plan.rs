//! A convolution, or the data gradient of one, as a list of runs of memory that each output reads.
//!
//! Output pixel `(y, x)` of phase `(y mod P0, x mod P1)` sums, over the phase's segments, `taps` neighbouring source
//! pixels from `(y / P0 * step0 + dy, x / P1 * step1 + dx)` on. A forward convolution has one phase; the data gradient of a
//! convolution of stride s has s * s, each a dense convolution with a part of the taps.

use rayon::prelude::*;

use super::ConvShape;
use super::microkernel::{LANES, PANEL, panel_width, panels_len};
use crate::isa::{Kernels, Target, per_isa};

/// Neighbouring pixels of one source row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub dy: isize,
    pub dx: isize,
    pub taps: usize,
}

#[derive(Debug)]
pub(crate) struct Phase {
    pub segments: Vec<Segment>,
    /// Where each tap is in the kernel, in the order of the segments.
    taps: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Plan {
    /// Rows, columns, channels of the map that is read.
    pub source: [usize; 3],
    /// Rows, columns, channels of the map that is written.
    pub target: [usize; 3],
    pub groups: usize,
    pub step: [usize; 2],
    pub phase_count: [usize; 2],
    /// Row-major over `phase_count`.
    pub phases: Vec<Phase>,
    /// Elements of the weight between neighbouring target channels, and source channels.
    weight_strides: [usize; 2],
}

impl Plan {
    pub(crate) fn forward(shape: &ConvShape) -> Self {
        let taps = kernel_taps(shape).map(|(tap, [r, s])| {
            let offset = |axis: usize, at: usize| (at * shape.dilation[axis]) as isize - shape.padding[axis] as isize;
            (offset(0, r), offset(1, s), tap)
        });
        Self {
            source: [shape.in_height, shape.in_width, shape.in_channels],
            target: [shape.out_height(), shape.out_width(), shape.out_channels],
            groups: shape.groups,
            step: shape.stride,
            phase_count: [1, 1],
            phases: vec![Phase::new(taps.collect(), shape.groups == 1)],
            weight_strides: [shape.group_in() * shape.taps(), shape.taps()],
        }
    }

    pub(crate) fn backward_input(shape: &ConvShape) -> Self {
        let [phases_y, phases_x] = shape.stride;
        let phases = (0..phases_y * phases_x).map(|i| {
            let phase = [i / phases_x, i % phases_x];
            let taps = kernel_taps(shape).filter_map(|(tap, [r, s])| {
                Some((source_offset(shape, 0, phase[0], r)?, source_offset(shape, 1, phase[1], s)?, tap))
            });
            Phase::new(taps.collect(), shape.groups == 1)
        });
        Self {
            source: [shape.out_height(), shape.out_width(), shape.out_channels],
            target: [shape.in_height, shape.in_width, shape.in_channels],
            groups: shape.groups,
            step: [1, 1],
            phase_count: shape.stride,
            phases: phases.collect(),
            weight_strides: [shape.taps(), shape.group_in() * shape.taps()],
        }
    }

    /// A convolution of stride 1 whose first tap reads at `offset`, with a weight `[K, C, kh, kw]`.
    pub(crate) fn dense(source: [usize; 3], target: [usize; 3], kernel: [usize; 2], offset: [isize; 2]) -> Self {
        let taps = kernel[0] * kernel[1];
        let tap = |tap: usize| (offset[0] + (tap / kernel[1]) as isize, offset[1] + (tap % kernel[1]) as isize, tap);
        Self {
            source,
            target,
            groups: 1,
            step: [1, 1],
            phase_count: [1, 1],
            phases: vec![Phase::new((0..taps).map(tap).collect(), true)],
            weight_strides: [source[2] * taps, taps],
        }
    }

    pub(crate) fn group_source(&self) -> usize {
        self.source[2] / self.groups
    }

    pub(crate) fn group_target(&self) -> usize {
        self.target[2] / self.groups
    }

    /// Whether every pixel reads the one in the same place and nothing else.
    pub(crate) fn is_pointwise(&self) -> bool {
        let is_here = |segment: &Segment| segment.dy == 0 && segment.dx == 0 && segment.taps == 1;
        self.source[2] > 0
            && self.source[..2] == self.target[..2]
            && self.step == [1, 1]
            && matches!(self.phases.as_slice(), [phase] if matches!(phase.segments.as_slice(), [one] if is_here(one)))
    }

    /// Floats of a segment.
    pub(crate) fn segment_len(&self, segment: &Segment) -> usize {
        segment.taps * self.group_source()
    }

    /// Terms of each sum of the phase.
    pub(crate) fn depth(&self, phase: &Phase) -> usize {
        phase.taps.len() * self.group_source()
    }

    pub(crate) fn packed_len(&self) -> usize {
        let group_len = |phase| panels_len(self.group_target(), self.depth(phase));
        self.phases.iter().map(group_len).sum::<usize>() * self.groups
    }

    /// Reorders the weight to panels `[phase][group][panel][depth][width]`; the columns that pad a panel are zero.
    pub(crate) fn pack(&self, kernels: Kernels, weight: &[f32], packed: &mut [f32]) {
        let group_weight_len = weight.len() / self.groups;
        let mut rest = packed;
        for phase in self.phases.iter().filter(|phase| !phase.taps.is_empty()) {
            let depth = self.depth(phase);
            for weight in weight.chunks_exact(group_weight_len) {
                let (group, tail) = rest.split_at_mut(panels_len(self.group_target(), depth));
                rest = tail;
                let panels = group.par_chunks_mut(PANEL * depth).enumerate();
                panels.for_each(|(i, panel)| self.pack_panel(kernels, phase, weight, i * PANEL, panel));
            }
        }
    }

    /// Packs the panel that starts at target channel `first` of a group; `weight` is the group's.
    pub(crate) fn pack_panel(&self, kernels: Kernels, phase: &Phase, weight: &[f32], first: usize, panel: &mut [f32]) {
        let width = panel_width(self.group_target(), first);
        let valid = width.min(self.group_target() - first);
        let weight = &weight[first * self.weight_strides[0]..];
        pack_panel(kernels, weight, self.weight_strides, &phase.taps, width, valid, panel);
    }
}

per_isa! {
    /// Packs the panel of `valid` target channels from the first of `weight` on; `strides` as in [`Plan::weight_strides`].
    fn pack_panel(
        weight: &[f32], strides: [usize; 2], taps: &[usize], width: usize, valid: usize, panel: &mut [f32],
    ) = pack_panel_body
}

/// Sixteen columns at a time: their weights are that many streams of memory, which the first-level cache holds also where
/// the distance between them is a power of two.
#[inline(always)]
fn pack_panel_body<T: Target>(
    weight: &[f32],
    [target_stride, source_stride]: [usize; 2],
    taps: &[usize],
    width: usize,
    valid: usize,
    panel: &mut [f32],
) {
    let sources = panel.len() / (width * taps.len());
    for column in (0..width).step_by(LANES) {
        let count = LANES.min(valid.saturating_sub(column));
        for source in 0..sources {
            for (i, tap) in taps.iter().enumerate() {
                let row = &mut panel[(i * sources + source) * width + column..][..LANES];
                let start = column * target_stride + source * source_stride + tap;
                if count == LANES {
                    let weight = &weight[start..start + (LANES - 1) * target_stride + 1];
                    for (lane, out) in row.iter_mut().enumerate() {
                        *out = weight[lane * target_stride];
                    }
                } else {
                    row.fill(0.0);
                    for (lane, out) in row[..count].iter_mut().enumerate() {
                        *out = weight[start + lane * target_stride];
                    }
                }
            }
        }
    }
}

impl Phase {
    /// Sorts the taps `(dy, dx, index in the kernel)` and joins neighbours, if the channels between them are all read.
    fn new(mut taps: Vec<(isize, isize, usize)>, is_dense: bool) -> Self {
        taps.sort_unstable();
        let mut segments: Vec<Segment> = Vec::new();
        for &(dy, dx, _) in &taps {
            match segments.last_mut() {
                Some(last) if is_dense && last.dy == dy && last.dx + last.taps as isize == dx => last.taps += 1,
                _ => segments.push(Segment { dy, dx, taps: 1 }),
            }
        }
        Self { segments, taps: taps.into_iter().map(|(_, _, tap)| tap).collect() }
    }

    /// Each tap of a plan that joins none: its segment, and where it is in the kernel.
    pub(crate) fn taps(&self) -> impl Iterator<Item = (&Segment, usize)> {
        self.segments.iter().zip(self.taps.iter().copied())
    }

    /// Segments this short are copied next to each other first: the micro-kernel's fixed cost would show.
    pub(crate) fn is_gathered(&self, group_source: usize) -> bool {
        self.segments.len() > 1 && self.segments.iter().all(|segment| segment.taps * group_source < LANES)
    }
}

fn kernel_taps(shape: &ConvShape) -> impl Iterator<Item = (usize, [usize; 2])> + use<> {
    let width = shape.kernel[1];
    (0..shape.taps()).map(move |tap| (tap, [tap / width, tap % width]))
}

/// `(phase + padding - at * dilation) / stride`, if that is whole: where tap `at` reads the output's gradient.
pub(crate) fn source_offset(shape: &ConvShape, axis: usize, phase: usize, at: usize) -> Option<isize> {
    let distance = (phase + shape.padding[axis]) as isize - (at * shape.dilation[axis]) as isize;
    let stride = shape.stride[axis] as isize;
    (distance % stride == 0).then(|| distance / stride)
}
