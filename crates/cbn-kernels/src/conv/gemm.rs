//! Convolution by indirect matrix multiplication: any kernel, stride, padding, dilation, groups and channel count.
//!
//! No im2col: the micro-kernel takes a slice per output pixel. In a channels-last map the taps of one kernel row are
//! neighbours, so a 3x3 kernel is three slices of `3 * C` floats; only pixels at the border copy theirs to add the zeros.
//! The idea is that of "The Indirect Convolution Algorithm" (Dukhan, 2019, <https://arxiv.org/abs/1907.02129>).

mod even_rows;
mod rows;

use rayon::prelude::*;

use self::even_rows::{Far, Finish, multiply_even_rows};
use self::rows::{Even, Rows};
use super::epilogue::Epilogue;
use super::microkernel::{PANEL, ROWS, multiply_rows, multiply_short_rows, panel_width, panels_len};
use super::packed_weight::Weight;
use super::plan::{Phase, Plan};
use crate::isa::{Kernels, Target, per_isa};
use crate::out::Out;
use crate::scratch::with_scratch;
use crate::stream::{self, Stream};

/// Pixels that share a pass over the packed weight.
const BLOCK: usize = 16 * ROWS;
/// Rows of a panel used at a time: 32 KiB, which stay in the first-level cache for all pixels of a block.
const DEPTH: usize = 128;
/// Up to this depth, segments are summed without a store in between.
const SHORT_DEPTH: usize = 256;
/// A packed weight of so many floats, 8 MiB, is read from beyond the second-level cache by every block.
const FAR_WEIGHT: usize = 2 * 1024 * 1024;
/// Up to this many pixels per phase the tasks are panels.
const FEW_PIXELS: usize = 512;

/// Runs the plan: `y` = the plan's sums, finished by `epilogue`.
///
/// On large maps the tasks are parts of the map, which share the packed weight. On small ones, where every task would read
/// all of a weight that is larger than its part of the map, they are panels of the weight, which share the map.
pub(crate) fn run(kernels: Kernels, plan: &Plan, x: &[f32], weight: Weight<'_>, epilogue: &Epilogue<'_>, y: &mut Out) {
    let channels = plan.target[2];
    let pixels = y.len() / channels;
    let is_streamed = stream::is_worth_it(y, channels);
    if pixels <= FEW_PIXELS * plan.phases.len() && plan.group_target() > PANEL {
        return Task { kernels, plan, x, epilogue: *epilogue, first_pixel: 0, is_streamed }.run_by_panels(weight, y);
    }
    let pixels_per_task = pixels_per_task(pixels, plan.phases.len());
    let mut multiply = |packed: &[f32]| {
        y.par_chunks_mut(pixels_per_task * channels).enumerate().for_each(|(i, y)| {
            let start = i * pixels_per_task * channels;
            let epilogue = epilogue.narrow(start, start + y.len());
            Task { kernels, plan, x, epilogue, first_pixel: i * pixels_per_task, is_streamed }.run(packed, y);
        });
    };
    match weight {
        Weight::Plain(weight) => with_scratch(plan.packed_len(), |packed| {
            plan.pack(kernels, weight, packed);
            multiply(packed);
        }),
        Weight::Packed(weight) => multiply(weight.panels()),
    }
}

/// About a block per phase, such that the threads get equal shares. No sum depends on it.
fn pixels_per_task(pixels: usize, phases: usize) -> usize {
    let threads = rayon::current_num_threads();
    let rounds = pixels.div_ceil(threads * phases * BLOCK);
    pixels.div_ceil(threads * rounds).next_multiple_of(ROWS)
}

struct Task<'a> {
    kernels: Kernels,
    plan: &'a Plan,
    x: &'a [f32],
    epilogue: Epilogue<'a>,
    first_pixel: usize,
    /// Whether the output is written past the caches.
    is_streamed: bool,
}

/// A pixel to compute: where it is in the task's part of the output, and where its taps start in the source.
#[derive(Clone, Copy)]
struct Pixel {
    at: usize,
    image: usize,
    y: isize,
    x: isize,
}

impl Task<'_> {
    /// Computes the task's part of the output from the packed weight.
    fn run(&self, mut packed: &[f32], y: &mut Out) {
        let plan = self.plan;
        for (i, phase) in plan.phases.iter().enumerate() {
            let (phase_packed, rest) =
                packed.split_at(panels_len(plan.group_target(), plan.depth(phase)) * plan.groups);
            packed = rest;
            let pixels = self.pixels([i / plan.phase_count[1], i % plan.phase_count[1]], y.len() / plan.target[2]);
            let blocks = pixels.len().div_ceil(BLOCK).max(1);
            for block in pixels.chunks(pixels.len().div_ceil(blocks).next_multiple_of(ROWS).max(1)) {
                self.run_block(phase, phase_packed, block, y);
            }
        }
    }

    /// The task's pixels of one phase.
    fn pixels(&self, phase: [usize; 2], count: usize) -> Vec<Pixel> {
        let [height, width, _] = self.plan.target;
        let [phases_y, phases_x] = self.plan.phase_count;
        let mut pixels = Vec::with_capacity(count / (phases_y * phases_x) + width);
        let end = self.first_pixel + count;
        for row in self.first_pixel / width..end.div_ceil(width) {
            let (image, y) = (row / height, row % height);
            if y % phases_y != phase[0] {
                continue;
            }
            let first = self.first_pixel.max(row * width) - row * width;
            let first = first + (phase[1] + phases_x - first % phases_x) % phases_x;
            pixels.extend((first..(end - row * width).min(width)).step_by(phases_x).map(|x| Pixel {
                at: row * width + x - self.first_pixel,
                image,
                y: (y / phases_y * self.plan.step[0]) as isize,
                x: (x / phases_x * self.plan.step[1]) as isize,
            }));
        }
        pixels
    }

    /// Computes all of the output, a task per panel of the weight.
    fn run_by_panels(&self, weight: Weight<'_>, y: &mut Out) {
        let plan = self.plan;
        for (i, phase) in plan.phases.iter().enumerate() {
            let pixels = self.pixels([i / plan.phase_count[1], i % plan.phase_count[1]], y.len() / plan.target[2]);
            if pixels.is_empty() {
                continue;
            }
            for group in 0..plan.groups {
                self.with_rows(phase, &pixels, group, |rows| {
                    with_scratch(panels_len(plan.group_target(), pixels.len()), |tiles| {
                        tiles.par_chunks_mut(PANEL * pixels.len()).enumerate().for_each(|(i, tile)| {
                            self.with_panel(weight, phase, group, i * PANEL, |panel| {
                                self.multiply_panel((rows, i == 0), pixels.len(), panel, tile);
                            });
                        });
                        for (i, tile) in tiles.chunks_mut(PANEL * pixels.len()).enumerate() {
                            self.finish(tile, group, i * PANEL, &pixels, y);
                        }
                    });
                });
            }
        }
    }

    /// Calls `work` with the packed panel of target channels `first ..` of a group.
    fn with_panel(&self, weight: Weight<'_>, phase: &Phase, group: usize, first: usize, work: impl FnOnce(&[f32])) {
        let depth = self.plan.depth(phase);
        match weight {
            Weight::Plain(weight) => {
                let group_len = weight.len() / self.plan.groups;
                let weight = &weight[group * group_len..(group + 1) * group_len];
                with_scratch(panel_width(self.plan.group_target(), first) * depth, |panel| {
                    if depth > 0 {
                        self.plan.pack_panel(self.kernels, phase, weight, first, panel);
                    }
                    work(panel);
                });
            }
            Weight::Packed(weight) => work(weight.panel(group, first)),
        }
    }

    fn run_block(&self, phase: &Phase, packed: &[f32], pixels: &[Pixel], y: &mut Out) {
        let plan = self.plan;
        let depth = plan.depth(phase);
        let group_len = panels_len(plan.group_target(), depth);
        let is_far = packed.len() >= FAR_WEIGHT;
        for group in 0..plan.groups {
            let packed = &packed[group * group_len..(group + 1) * group_len];
            self.with_rows(phase, pixels, group, |rows| {
                with_scratch(pixels.len() * PANEL, |tile| {
                    for first in (0..plan.group_target()).step_by(PANEL) {
                        let width = panel_width(plan.group_target(), first);
                        let tile = &mut tile[..pixels.len() * width];
                        let panel = &packed[first * depth..][..width * depth];
                        match rows {
                            Rows::Even(source) => {
                                let finish = Finish {
                                    epilogue: self.epilogue,
                                    is_streamed: self.is_streamed,
                                    pixel: pixels[0].at,
                                    channels: self.channels(group, first, width),
                                };
                                multiply_even(
                                    self.kernels,
                                    (*source, Far { rows: first == 0, panel: is_far }),
                                    (panel, width),
                                    tile,
                                    Some((finish, y)),
                                );
                            }
                            _ => {
                                self.multiply_panel((rows, first == 0), pixels.len(), panel, tile);
                                self.finish(tile, group, first, pixels, y);
                            }
                        }
                    }
                });
            });
        }
    }

    /// `tile`, a row per pixel, = the rows times the panel. The first panel finds the rows far away.
    fn multiply_panel(&self, (rows, are_far): (&Rows<'_>, bool), num_pixels: usize, panel: &[f32], tile: &mut [f32]) {
        let width = tile.len() / num_pixels;
        match rows {
            Rows::Even(rows) => {
                let far = Far { rows: are_far, panel: false };
                multiply_even(self.kernels, (*rows, far), (panel, width), tile, None);
            }
            Rows::Sliced(slices, segment_lens) => {
                if let Some(len) = short_len(segment_lens) {
                    return multiply_short_rows(self.kernels, slices, len, (panel, width), tile);
                }
                let mut panel = panel;
                let mut accumulate = false;
                for (rows, &len) in slices.chunks(num_pixels).zip(segment_lens) {
                    for skip in (0..len).step_by(DEPTH) {
                        let (part, rest) = panel.split_at((len - skip).min(DEPTH) * width);
                        panel = rest;
                        multiply_rows(self.kernels, (rows, are_far), skip, (part, width), tile, accumulate);
                        accumulate = true;
                    }
                }
                if !accumulate {
                    tile.fill(0.0);
                }
            }
        }
    }

    /// Channels (first, count, of all) of the output that a panel of `width` computes.
    fn channels(&self, group: usize, first: usize, width: usize) -> (usize, usize, usize) {
        let group_target = self.plan.group_target();
        (group * group_target + first, width.min(group_target - first), self.plan.target[2])
    }

    /// Writes a tile to the channels of `group` from `first` on.
    fn finish(&self, tile: &mut [f32], group: usize, first: usize, pixels: &[Pixel], y: &mut Out) {
        let width = tile.len() / pixels.len();
        let channels = self.channels(group, first, width);
        finish_tile(self.kernels, (&self.epilogue, self.is_streamed), (tile, width), pixels, channels, y);
    }
}

/// `tile` = the rows times the panel, [`DEPTH`] of their terms at a time; the last of them finish it for the output, if there is one.
fn multiply_even(
    kernels: Kernels,
    (rows, far): (Even<'_>, Far),
    (panel, width): (&[f32], usize),
    tile: &mut [f32],
    mut output: Option<(Finish<'_>, &mut Out)>,
) {
    for (skip, part) in (0..rows.depth).step_by(DEPTH).zip(panel.chunks(DEPTH * width)) {
        let rows = Even { source: &rows.source[skip..], ..rows };
        let output = if skip + DEPTH >= rows.depth { output.take() } else { None };
        multiply_even_rows(kernels, (rows, far), (part, width), tile, skip > 0, output);
    }
}

/// The length of all segments, if several together are short.
fn short_len(segment_lens: &[usize]) -> Option<usize> {
    let len = *segment_lens.first()?;
    let are_short = segment_lens.len() > 1 && segment_lens.len() * len <= SHORT_DEPTH;
    (are_short && segment_lens.iter().all(|&other| other == len)).then_some(len)
}

per_isa! {
    /// Writes a tile, one row per pixel, to channels (first, count, of all) of the output, past the caches if it is streamed.
    fn finish_tile(
        epilogue: (&Epilogue<'_>, bool), tile: (&mut [f32], usize), pixels: &[Pixel], channels: (usize, usize, usize),
        y: &mut Out,
    ) = finish_tile_body
}

#[inline(always)]
fn finish_tile_body<T: Target>(
    (epilogue, is_streamed): (&Epilogue<'_>, bool),
    (tile, width): (&mut [f32], usize),
    pixels: &[Pixel],
    (first, count, all): (usize, usize, usize),
    y: &mut Out,
) {
    let stream = is_streamed.then_some(Stream);
    for (pixel, sums) in pixels.iter().zip(tile.chunks_exact_mut(width)) {
        let start = pixel.at * all + first;
        epilogue.finish::<T>(&sums[..count], first, start, (stream.as_ref(), &mut y[start..start + count]));
    }
}
