//! ROI Align: a fixed-size crop of a feature map for each box, by bilinear samples averaged per bin.
//!
//! He et al., "Mask R-CNN", 2017, <https://arxiv.org/abs/1703.06870>, section 3; the conventions are those of torchvision
//! 0.26, `roi_align`. A bin's average of samples is separable: each axis of a box turns into a few (line, weight) pairs per bin,
//! and samples that fall on the same lines share them.

mod pyramid;
pub mod reference;

use rayon::prelude::*;

pub use self::pyramid::{PyramidLevel, PyramidRoi, pyramid_roi_align, pyramid_roi_align_backward};

use crate::isa::{Isa, Kernels, Target, per_isa};
use crate::map_shape::MapShape;
use crate::out::{self, Out};

/// A box on one image of a batch, in pixels of the image before [`RoiAlign::spatial_scale`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roi {
    /// Which image.
    pub batch_index: usize,
    /// Left.
    pub x1: f32,
    /// Top.
    pub y1: f32,
    /// Right.
    pub x2: f32,
    /// Bottom.
    pub y2: f32,
}

/// How boxes are cropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiAlign {
    /// Bins, rows and columns.
    pub output: [usize; 2],
    /// Samples per bin and axis; 0 takes as many as the bin has map pixels, rounded up.
    pub sampling_ratio: usize,
    /// Map pixels per image pixel.
    pub spatial_scale: f32,
    /// Whether coordinates are shifted by half a pixel, as is right; without, boxes are at least one map pixel wide and high.
    pub aligned: bool,
}

impl RoiAlign {
    /// Elements of the output for `num_rois` boxes.
    pub fn output_len(&self, map: &MapShape, num_rois: usize) -> usize {
        num_rois * self.output[0] * self.output[1] * map.channels
    }

    /// Crops each box.
    ///
    /// # Shapes
    ///
    /// `x`: `[B, H, W, C]`, `y`: `[N, output height, output width, C]`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit, or a box is on an image that the batch does not have.
    pub fn forward(&self, map: &MapShape, x: &[f32], rois: &[Roi], y: &mut [f32]) {
        self.check(map, x.len(), rois.iter());
        assert_eq!(y.len(), self.output_len(map, rois.len()), "length of {} crops of {map:?}", rois.len());
        let kernels = Kernels::new(Isa::detect());
        let crop_len = self.output_len(map, 1).max(1);
        out::over(y).par_chunks_mut(crop_len).zip(rois).for_each(|(y, roi)| self.crop(kernels, map, x, roi, y));
    }

    fn crop(&self, kernels: Kernels, map: &MapShape, x: &[f32], roi: &Roi, y: &mut Out) {
        let [rows, columns] = self.axes(map, roi);
        crop(kernels, map, x, roi.batch_index, &rows, &columns, y);
    }

    /// The gradient with regard to `x`, from that with regard to `y`.
    ///
    /// Each element is summed in the order of the boxes, whatever the number of threads. Shapes and panics as for
    /// [`RoiAlign::forward`].
    pub fn backward(&self, map: &MapShape, grad_y: &[f32], rois: &[Roi], grad_x: &mut [f32]) {
        assert_eq!(grad_y.len(), self.output_len(map, rois.len()), "length of {} crops of {map:?}", rois.len());
        self.scatter(map, grad_y, rois.iter().enumerate().collect(), grad_x);
    }

    /// The gradient of some of the crops in `grad_y`, each given by its number and its box.
    fn scatter(&self, map: &MapShape, grad_y: &[f32], crops: Vec<(usize, &Roi)>, grad_x: &mut [f32]) {
        self.check(map, grad_x.len(), crops.iter().map(|(_, roi)| *roi));
        if grad_x.is_empty() {
            return;
        }
        let kernels = Kernels::new(Isa::detect());
        let axes: Vec<[Axis; 2]> = crops.par_iter().map(|(_, roi)| self.axes(map, roi)).collect();
        let crop_len = self.output_len(map, 1);
        let rows_per_task = map.rows_per_task();
        grad_x.par_chunks_mut(rows_per_task * map.row_len()).enumerate().for_each(|(i, grad_x)| {
            grad_x.fill(0.0);
            let first_row = i * rows_per_task;
            let end_row = first_row + grad_x.len() / map.row_len();
            for ((number, roi), [rows, columns]) in crops.iter().zip(&axes) {
                let grad_y = &grad_y[number * crop_len..(number + 1) * crop_len];
                // Rows of all images are numbered through; these are the task's, on the box's image.
                let image_row = roi.batch_index * map.height;
                let band = [first_row.saturating_sub(image_row), end_row.saturating_sub(image_row).min(map.height)];
                if band[0] < band[1] && rows.overlaps(band) {
                    let start = (image_row + band[0] - first_row) * map.row_len();
                    scatter(kernels, map, grad_y, rows, columns, band, &mut grad_x[start..]);
                }
            }
        });
    }

    fn check<'a>(&self, map: &MapShape, map_len: usize, rois: impl Iterator<Item = &'a Roi>) {
        assert_eq!(map_len, map.len(), "length of a map of {map:?}");
        for roi in rois {
            assert!(roi.batch_index < map.batch, "{roi:?} is on an image of {map:?}");
        }
    }

    /// The rows and columns that the bins of a box read.
    fn axes(&self, map: &MapShape, roi: &Roi) -> [Axis; 2] {
        [self.axis(roi.y1, roi.y2, self.output[0], map.height), self.axis(roi.x1, roi.x2, self.output[1], map.width)]
    }

    fn axis(&self, start: f32, end: f32, bins: usize, lines: usize) -> Axis {
        let (start, bin_size, samples) = self.bins(start, end, bins);
        let mut axis = Axis { ends: Vec::with_capacity(bins), lines: Vec::with_capacity(bins * (samples + 1)) };
        for bin in 0..bins {
            let first = axis.lines.len();
            for sample in 0..samples {
                let at = start + bin as f32 * bin_size + (sample as f32 + 0.5) * bin_size / samples as f32;
                axis.add_sample(at, lines, 1.0 / samples as f32, first);
            }
            axis.ends.push(axis.lines.len());
        }
        axis
    }

    /// Start of the first bin, size of a bin and samples per bin, along one axis, in map pixels.
    fn bins(&self, start: f32, end: f32, bins: usize) -> (f32, f32, usize) {
        let offset = if self.aligned { 0.5 } else { 0.0 };
        let (start, end) = (start * self.spatial_scale - offset, end * self.spatial_scale - offset);
        let size = if self.aligned { end - start } else { (end - start).max(1.0) };
        let samples = if self.sampling_ratio > 0 { self.sampling_ratio } else { (size / bins as f32).ceil() as usize };
        (start, size / bins as f32, samples)
    }
}

/// For each bin along one axis, the lines of the map that it averages, with their weights.
struct Axis {
    /// Where the lines of each bin end.
    ends: Vec<usize>,
    lines: Vec<(usize, f32)>,
}

impl Axis {
    /// Adds a sample of `weight` at `at`; samples more than a pixel outside count as zero, others are clamped.
    fn add_sample(&mut self, at: f32, lines: usize, weight: f32, first: usize) {
        // Written so that a coordinate that is not a number counts as outside.
        if !(at >= -1.0 && at <= lines as f32) {
            return;
        }
        let at = at.max(0.0).min((lines - 1) as f32);
        let low = at as usize;
        let fraction = at - low as f32;
        self.add_line(low, (1.0 - fraction) * weight, first);
        if fraction > 0.0 {
            self.add_line(low + 1, fraction * weight, first);
        }
    }

    fn add_line(&mut self, line: usize, weight: f32, first: usize) {
        match self.lines[first..].iter_mut().find(|(known, _)| *known == line) {
            Some((_, sum)) => *sum += weight,
            None => self.lines.push((line, weight)),
        }
    }

    #[inline(always)]
    fn bins(&self) -> impl Iterator<Item = &[(usize, f32)]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let lines = &self.lines[start..end];
            start = end;
            lines
        })
    }

    /// Whether any bin reads lines `band[0] .. band[1]`.
    fn overlaps(&self, band: [usize; 2]) -> bool {
        self.lines.iter().any(|&(line, _)| line >= band[0] && line < band[1])
    }
}

per_isa! {
    fn crop(map: &MapShape, x: &[f32], image: usize, rows: &Axis, columns: &Axis, y: &mut Out) = crop_body
}

per_isa! {
    /// Adds a crop's gradient to rows `band[0] .. band[1]` of its image, where `grad_x` starts with the first of them.
    fn scatter(
        map: &MapShape, grad_y: &[f32], rows: &Axis, columns: &Axis, band: [usize; 2], grad_x: &mut [f32],
    ) = scatter_body
}

#[inline(always)]
fn crop_body<T: Target>(map: &MapShape, x: &[f32], image: usize, rows: &Axis, columns: &Axis, y: &mut Out) {
    let mut bins = y.chunks_exact_mut(map.channels);
    for row_lines in rows.bins() {
        for (column_lines, y) in columns.bins().zip(&mut bins) {
            out::zero(y);
            // SAFETY: all of it is zero.
            let y = unsafe { y.assume_init_mut() };
            for &(row, row_weight) in row_lines {
                for &(column, column_weight) in column_lines {
                    let start = map.pixel(image, row, column);
                    add_scaled::<T>(y, row_weight * column_weight, &x[start..start + map.channels]);
                }
            }
        }
    }
}

#[inline(always)]
fn scatter_body<T: Target>(
    map: &MapShape,
    grad_y: &[f32],
    rows: &Axis,
    columns: &Axis,
    band: [usize; 2],
    grad_x: &mut [f32],
) {
    let mut bins = grad_y.chunks_exact(map.channels);
    for row_lines in rows.bins() {
        for (column_lines, grad_y) in columns.bins().zip(&mut bins) {
            for &(row, row_weight) in row_lines.iter().filter(|(row, _)| *row >= band[0] && *row < band[1]) {
                for &(column, column_weight) in column_lines {
                    let start = map.pixel(0, row - band[0], column);
                    add_scaled::<T>(&mut grad_x[start..start + map.channels], row_weight * column_weight, grad_y);
                }
            }
        }
    }
}

#[inline(always)]
fn add_scaled<T: Target>(sums: &mut [f32], weight: f32, values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = T::mul_add(weight, *value, *sum);
    }
}
