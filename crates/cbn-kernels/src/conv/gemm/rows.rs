//! What the pixels of a block read: slices of the map, or copies where there is no slice.

use super::{Pixel, Task};
use crate::conv::microkernel::LANES;
use crate::conv::plan::{Phase, Plan, Segment};
use crate::isa::{Target, per_isa};
use crate::scratch::with_scratch;

/// What some pixels read.
pub(super) enum Rows<'a> {
    /// Neighbouring pixels.
    Even(Even<'a>),
    /// `[segment][pixel]`, and the floats of each segment.
    Sliced(Vec<&'a [f32]>, Vec<usize>),
}

/// So many floats, `depth`, of each pixel, at the distance `stride`.
#[derive(Clone, Copy)]
pub(super) struct Even<'a> {
    pub source: &'a [f32],
    pub stride: usize,
    pub depth: usize,
}

/// Where the floats of one segment of one pixel are.
enum Location {
    Zero,
    Source(usize),
    Copied(usize),
}

impl Task<'_> {
    /// Calls `work` with what the pixels read.
    pub(super) fn with_rows(&self, phase: &Phase, pixels: &[Pixel], group: usize, work: impl FnOnce(&Rows<'_>)) {
        let depth = self.plan.depth(phase);
        if self.plan.is_pointwise() {
            // Pixels and what they read are in the same order.
            let (first, channels) = (self.first_pixel + pixels[0].at, self.plan.source[2]);
            let source = &self.x[first * channels..];
            return work(&Rows::Even(Even { source: &source[group * depth..], stride: channels, depth }));
        }
        with_scratch((pixels.len() + 1) * depth, |copies| {
            let locations = self.locate(phase, pixels, group, copies);
            let (zeros, copies) = copies.split_at(depth);
            let segment_lens = segment_lens(self.plan, phase);
            let mut slices = Vec::with_capacity(locations.len());
            for (locations, &len) in locations.chunks(pixels.len()).zip(&segment_lens) {
                slices.extend(locations.iter().map(|location| match *location {
                    Location::Zero => &zeros[..len],
                    Location::Source(start) => &self.x[start..start + len],
                    Location::Copied(start) => &copies[start..start + len],
                }));
            }
            work(&Rows::Sliced(slices, segment_lens));
        });
    }

    /// For each segment, for each pixel: where its floats are. `copies` starts with zeros and takes the copies.
    fn locate(&self, phase: &Phase, pixels: &[Pixel], group: usize, copies: &mut [f32]) -> Vec<Location> {
        let (zeros, copies) = copies.split_at_mut(self.plan.depth(phase));
        zeros.fill(0.0);
        let first_channel = group * self.plan.group_source();
        if phase.is_gathered(self.plan.group_source()) {
            let depth = zeros.len();
            copy_segments(self.kernels, self, phase, pixels, first_channel, copies);
            return (0..pixels.len()).map(|i| Location::Copied(i * depth)).collect();
        }
        let [height, width, channels] = self.plan.source;
        let mut used = 0;
        let mut locations = Vec::with_capacity(phase.segments.len() * pixels.len());
        for segment in &phase.segments {
            let taps = segment.taps as isize;
            let len = self.plan.segment_len(segment);
            locations.extend(pixels.iter().map(|pixel| {
                let (y, x) = (pixel.y + segment.dy, pixel.x + segment.dx);
                if y < 0 || y >= height as isize || x + taps <= 0 || x >= width as isize {
                    Location::Zero
                } else if x >= 0 && x + taps <= width as isize {
                    let at = (pixel.image * height + y as usize) * width + x as usize;
                    Location::Source(at * channels + first_channel)
                } else {
                    let start = used;
                    used += len;
                    self.copy_segment(segment, pixel, first_channel, &mut copies[start..used]);
                    Location::Copied(start)
                }
            }));
        }
        locations
    }

    /// Copies the floats that a segment reads, zeros outside the map.
    #[inline(always)]
    fn copy_segment(&self, segment: &Segment, pixel: &Pixel, first_channel: usize, copy: &mut [f32]) {
        let [height, width, channels] = self.plan.source;
        let y = pixel.y + segment.dy;
        let first = pixel.x + segment.dx;
        let is_inside = y >= 0 && y < height as isize && first >= 0 && first + segment.taps as isize <= width as isize;
        if is_inside {
            let at = (pixel.image * height + y as usize) * width + first as usize;
            return copy_short(&self.x[at * channels + first_channel..][..copy.len()], copy);
        }
        for (tap, copy) in copy.chunks_exact_mut(self.plan.group_source()).enumerate() {
            let x = first + tap as isize;
            if y < 0 || y >= height as isize || x < 0 || x >= width as isize {
                copy.fill(0.0);
            } else {
                let at = (pixel.image * height + y as usize) * width + x as usize;
                copy.copy_from_slice(&self.x[at * channels + first_channel..][..copy.len()]);
            }
        }
    }
}

per_isa! {
    /// Copies all that each pixel reads next to each other.
    fn copy_segments(task: &Task<'_>, phase: &Phase, pixels: &[Pixel], first_channel: usize, copies: &mut [f32])
        = copy_segments_body
}

#[inline(always)]
fn copy_segments_body<T: Target>(
    task: &Task<'_>,
    phase: &Phase,
    pixels: &[Pixel],
    first_channel: usize,
    copies: &mut [f32],
) {
    for (pixel, copies) in pixels.iter().zip(copies.chunks_exact_mut(task.plan.depth(phase))) {
        let mut rest = copies;
        for segment in &phase.segments {
            let (copy, tail) = rest.split_at_mut(task.plan.segment_len(segment));
            task.copy_segment(segment, pixel, first_channel, copy);
            rest = tail;
        }
    }
}

/// Copies a few floats without a call: two registers that overlap hold 16 to 32 of them.
#[inline(always)]
fn copy_short(from: &[f32], to: &mut [f32]) {
    let len = from.len();
    if (LANES..=2 * LANES).contains(&len) {
        let (mut first, mut last) = ([0.0; LANES], [0.0; LANES]);
        first.copy_from_slice(&from[..LANES]);
        last.copy_from_slice(&from[len - LANES..]);
        to[..LANES].copy_from_slice(&first);
        to[len - LANES..].copy_from_slice(&last);
    } else {
        to.copy_from_slice(from);
    }
}

/// Floats of each row that [`Task::locate`] returns.
fn segment_lens(plan: &Plan, phase: &Phase) -> Vec<usize> {
    if phase.is_gathered(plan.group_source()) {
        vec![plan.depth(phase)]
    } else {
        phase.segments.iter().map(|segment| plan.segment_len(segment)).collect()
    }
}
