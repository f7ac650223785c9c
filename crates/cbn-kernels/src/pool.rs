//! Max-pooling, channels-last.
//!
//! The gradient is gathered: each input pixel looks at the windows that contain it, in order. So it needs neither atomics nor
//! a second buffer, and the number of threads changes no bit.

use rayon::prelude::*;

use crate::isa::{Isa, Kernels, Target, per_isa};
use crate::map_shape::MapShape;

/// Max-pooling. Padding never wins; sizes round down. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool {
    /// Pixels of a window.
    pub kernel: [usize; 2],
    /// Pixels between windows.
    pub stride: [usize; 2],
    /// Pixels added on each side; at most half the kernel.
    pub padding: [usize; 2],
}

impl MaxPool {
    /// The shape of the output.
    ///
    /// # Panics
    ///
    /// If the kernel or the stride is zero, or the padding more than half the kernel.
    pub fn output(&self, map: &MapShape) -> MapShape {
        assert!(self.kernel.iter().chain(&self.stride).all(|&n| n > 0), "kernel and stride are at least 1: {self:?}");
        assert!((0..2).all(|i| 2 * self.padding[i] <= self.kernel[i]), "padding is at most half the kernel: {self:?}");
        let extent = |axis: usize, extent: usize| {
            (extent + 2 * self.padding[axis]).checked_sub(self.kernel[axis]).map_or(0, |n| n / self.stride[axis] + 1)
        };
        MapShape { height: extent(0, map.height), width: extent(1, map.width), ..*map }
    }

    /// The largest value of each window, and where it is: the pixel `y * W + x` of its image.
    ///
    /// Of equal values the first wins; a value that is not a number wins over all.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    pub fn forward(&self, map: &MapShape, x: &[f32], y: &mut [f32], argmax: &mut [u32]) {
        let output = self.output(map);
        assert_eq!([x.len(), y.len(), argmax.len()], [map.len(), output.len(), output.len()], "lengths of {map:?}");
        if y.is_empty() {
            return;
        }
        let kernels = Kernels::new(Isa::detect());
        let rows = y.par_chunks_mut(output.row_len()).zip(argmax.par_chunks_mut(output.row_len()));
        let rows = rows.with_min_len(output.rows_per_task());
        rows.enumerate().for_each(|(row, (y, argmax))| pool_row(kernels, self, map, x, row, y, argmax));
    }

    /// The gradient with regard to `x`, from that with regard to `y`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    pub fn backward(&self, map: &MapShape, grad_y: &[f32], argmax: &[u32], grad_x: &mut [f32]) {
        let output = self.output(map);
        let lens = [grad_x.len(), grad_y.len(), argmax.len()];
        assert_eq!(lens, [map.len(), output.len(), output.len()], "lengths of {map:?}");
        if grad_x.is_empty() {
            return;
        }
        let kernels = Kernels::new(Isa::detect());
        let rows = grad_x.par_chunks_mut(map.row_len()).with_min_len(map.rows_per_task());
        rows.enumerate().for_each(|(row, grad_x)| gather_row(kernels, self, map, grad_y, argmax, row, grad_x));
    }

    /// The input lines of window `at`.
    #[inline(always)]
    fn window(&self, axis: usize, at: usize, lines: usize) -> std::ops::Range<usize> {
        let start = at * self.stride[axis];
        start.saturating_sub(self.padding[axis])..(start + self.kernel[axis] - self.padding[axis]).min(lines)
    }

    /// The windows that contain input line `at`.
    #[inline(always)]
    fn windows(&self, axis: usize, at: usize, windows: usize) -> std::ops::Range<usize> {
        let padded = at + self.padding[axis];
        let first = (padded + 1).saturating_sub(self.kernel[axis]).div_ceil(self.stride[axis]);
        first..(padded / self.stride[axis] + 1).min(windows)
    }
}

per_isa! {
    fn pool_row(pool: &MaxPool, map: &MapShape, x: &[f32], row: usize, y: &mut [f32], argmax: &mut [u32]) = pool_row_body
}

per_isa! {
    fn gather_row(pool: &MaxPool, map: &MapShape, grad_y: &[f32], argmax: &[u32], row: usize, grad_x: &mut [f32])
        = gather_row_body
}

#[inline(always)]
fn pool_row_body<T: Target>(pool: &MaxPool, map: &MapShape, x: &[f32], row: usize, y: &mut [f32], argmax: &mut [u32]) {
    let output = pool.output(map);
    let (image, oy) = (row / output.height, row % output.height);
    let pixels = y.chunks_exact_mut(map.channels).zip(argmax.chunks_exact_mut(map.channels));
    for (ox, (y, argmax)) in pixels.enumerate() {
        let mut is_first = true;
        for iy in pool.window(0, oy, map.height) {
            for ix in pool.window(1, ox, map.width) {
                let at = (iy * map.width + ix) as u32;
                let start = map.pixel(image, iy, ix);
                for ((value, y), argmax) in x[start..start + map.channels].iter().zip(&mut *y).zip(&mut *argmax) {
                    let wins = is_first | (*value > *y) | value.is_nan();
                    *y = if wins { *value } else { *y };
                    *argmax = if wins { at } else { *argmax };
                }
                is_first = false;
            }
        }
    }
}

#[inline(always)]
fn gather_row_body<T: Target>(
    pool: &MaxPool,
    map: &MapShape,
    grad_y: &[f32],
    argmax: &[u32],
    row: usize,
    grad_x: &mut [f32],
) {
    let output = pool.output(map);
    let (image, iy) = (row / map.height, row % map.height);
    for (ix, grad_x) in grad_x.chunks_exact_mut(map.channels).enumerate() {
        grad_x.fill(0.0);
        let at = (iy * map.width + ix) as u32;
        for oy in pool.windows(0, iy, output.height) {
            for ox in pool.windows(1, ix, output.width) {
                let start = output.pixel(image, oy, ox);
                let window = start..start + map.channels;
                for ((sum, grad), argmax) in grad_x.iter_mut().zip(&grad_y[window.clone()]).zip(&argmax[window]) {
                    *sum += if *argmax == at { *grad } else { 0.0 };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEM: MaxPool = MaxPool { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };

    fn values(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i * 7919 % 1009) as f32 - 504.0).collect()
    }

    #[test]
    fn windows_give_their_largest_value_and_its_place() {
        let map = MapShape { batch: 1, height: 3, width: 3, channels: 1 };
        let x = [1.0, 2.0, 3.0, 4.0, 9.0, 6.0, 7.0, 8.0, 5.0];
        let (mut y, mut argmax) = ([0.0; 4], [0; 4]);
        STEM.forward(&map, &x, &mut y, &mut argmax);
        assert_eq!((y, argmax), ([9.0; 4], [4; 4]));
        let mut grad_x = [7.0; 9];
        STEM.backward(&map, &[1.0, 2.0, 3.0, 4.0], &argmax, &mut grad_x);
        assert_eq!(grad_x, [0.0, 0.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn padding_never_wins() {
        let map = MapShape { batch: 1, height: 1, width: 1, channels: 2 };
        let (mut y, mut argmax) = ([0.0; 2], [9; 2]);
        STEM.forward(&map, &[-5.0, f32::NEG_INFINITY], &mut y, &mut argmax);
        assert_eq!((y, argmax), ([-5.0, f32::NEG_INFINITY], [0; 2]));
    }

    #[test]
    fn every_gradient_arrives_where_its_maximum_is() {
        let pools = [STEM, MaxPool { kernel: [1, 1], stride: [2, 2], padding: [0, 0] }];
        let pools = pools.into_iter().chain([MaxPool { kernel: [3, 2], stride: [1, 3], padding: [1, 0] }]);
        for pool in pools {
            let map = MapShape { batch: 2, height: 9, width: 8, channels: 19 };
            let output = pool.output(&map);
            let (x, grad_y) = (values(map.len()), values(output.len()));
            let (mut y, mut argmax) = (vec![0.0; output.len()], vec![0; output.len()]);
            pool.forward(&map, &x, &mut y, &mut argmax);
            let mut scattered = vec![0.0; map.len()];
            for (i, &at) in argmax.iter().enumerate() {
                let image = i / (output.height * output.row_len());
                let at = (image * map.height * map.width + at as usize) * map.channels + i % map.channels;
                assert_eq!(y[i], x[at]);
                scattered[at] += grad_y[i];
            }
            let mut grad_x = vec![7.0; map.len()];
            pool.backward(&map, &grad_y, &argmax, &mut grad_x);
            // Whole numbers: sums are exact in any order.
            assert_eq!(grad_x, scattered);
        }
    }
}
