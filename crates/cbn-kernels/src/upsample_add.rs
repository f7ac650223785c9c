//! The top-down step of a feature pyramid: a map enlarged by nearest neighbour, added to a larger map.

use rayon::prelude::*;

use crate::isa::{Isa, Kernels, Target, per_isa};
use crate::map_shape::MapShape;
use crate::out::{self, Out};

/// `large[b, y, x] + small[b, floor(y * h / H), floor(x * w / W)]`, as PyTorch's nearest interpolation to a given size.
///
/// # Panics
///
/// If the lengths, batches or channels do not fit.
pub fn upsample_add(small_map: &MapShape, small: &[f32], large_map: &MapShape, large: &[f32]) -> Vec<f32> {
    check(small_map, small.len(), large_map, large.len());
    let kernels = Kernels::new(Isa::detect());
    let columns = sources(small_map.width, large_map.width);
    let rows = sources(small_map.height, large_map.height);
    let row_len = large_map.row_len();
    let write = |sum: &mut Out| {
        let sum_rows = sum.par_chunks_mut(row_len.max(1)).with_min_len(large_map.rows_per_task());
        sum_rows.enumerate().for_each(|(row, sum)| {
            let start = small_map.pixel(row / large_map.height, rows[row % large_map.height], 0);
            let small = &small[start..start + small_map.row_len()];
            add_row(kernels, small, &columns, small_map.channels, &large[row * row_len..][..row_len], sum);
        });
    };
    // SAFETY: the rows are all of the map, there is a source for each of their pixels, and all channels are written.
    unsafe { out::filled(large.len(), write) }
}

/// The gradient of [`upsample_add`] with regard to `small`; that with regard to `large` is `grad_large` itself.
///
/// # Panics
///
/// If the lengths, batches or channels do not fit.
pub fn upsample_add_backward(small_map: &MapShape, large_map: &MapShape, grad_large: &[f32], grad_small: &mut [f32]) {
    check(small_map, grad_small.len(), large_map, grad_large.len());
    if grad_small.is_empty() {
        return;
    }
    let kernels = Kernels::new(Isa::detect());
    let columns = sources(small_map.width, large_map.width);
    let rows = sources(small_map.height, large_map.height);
    let small_rows = grad_small.par_chunks_mut(small_map.row_len()).with_min_len(small_map.rows_per_task());
    small_rows.enumerate().for_each(|(row, grad_small)| {
        grad_small.fill(0.0);
        let (image, small_y) = (row / small_map.height, row % small_map.height);
        for (large_y, _) in rows.iter().enumerate().filter(|&(_, source)| *source == small_y) {
            let start = large_map.pixel(image, large_y, 0);
            let grad_large = &grad_large[start..start + large_map.row_len()];
            gather_row(kernels, grad_large, &columns, small_map.channels, grad_small);
        }
    });
}

fn check(small_map: &MapShape, small_len: usize, large_map: &MapShape, large_len: usize) {
    assert_eq!([small_len, large_len], [small_map.len(), large_map.len()], "lengths of {small_map:?}, {large_map:?}");
    let same = (small_map.batch, small_map.channels) == (large_map.batch, large_map.channels);
    assert!(same, "batch and channels are the same: {small_map:?}, {large_map:?}");
    let covers = small_map.height > 0 && small_map.width > 0 || large_map.is_empty();
    assert!(covers, "there is a source for every pixel: {small_map:?}, {large_map:?}");
}

/// For each of `large` lines its source among `small`; in `f32`, because PyTorch rounds so.
fn sources(small: usize, large: usize) -> Vec<usize> {
    let scale = small as f32 / large as f32;
    (0..large).map(|at| ((at as f32 * scale) as usize).min(small.saturating_sub(1))).collect()
}

per_isa! {
    /// `sum` = each pixel x of `large` and `small[columns[x]]`.
    fn add_row(small: &[f32], columns: &[usize], channels: usize, large: &[f32], sum: &mut Out) = add_row_body
}

per_isa! {
    /// Adds each pixel x of `grad_large` to `grad_small[columns[x]]`.
    fn gather_row(grad_large: &[f32], columns: &[usize], channels: usize, grad_small: &mut [f32]) = gather_row_body
}

#[inline(always)]
fn add_row_body<T: Target>(small: &[f32], columns: &[usize], channels: usize, large: &[f32], sum: &mut Out) {
    for ((sum, large), column) in sum.chunks_exact_mut(channels).zip(large.chunks_exact(channels)).zip(columns) {
        for ((sum, large), small) in sum.iter_mut().zip(large).zip(&small[column * channels..][..channels]) {
            sum.write(large + small);
        }
    }
}

#[inline(always)]
fn gather_row_body<T: Target>(grad_large: &[f32], columns: &[usize], channels: usize, grad_small: &mut [f32]) {
    for (grad_large, column) in grad_large.chunks_exact(channels).zip(columns) {
        for (sum, grad) in grad_small[column * channels..(column + 1) * channels].iter_mut().zip(grad_large) {
            *sum += grad;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(small: [usize; 2], large: [usize; 2]) -> [MapShape; 2] {
        [small, large].map(|[height, width]| MapShape { batch: 2, height, width, channels: 3 })
    }

    #[test]
    fn each_pixel_is_added_to_its_block() {
        let [small_map, large_map] =
            [[1, 2], [2, 4]].map(|[height, width]| MapShape { batch: 1, height, width, channels: 1 });
        let large = upsample_add(&small_map, &[1.0, 2.0], &large_map, &[10.0; 8]);
        assert_eq!(large, [11.0, 11.0, 12.0, 12.0, 11.0, 11.0, 12.0, 12.0]);
        let mut grad_small = [7.0; 2];
        upsample_add_backward(&small_map, &large_map, &large, &mut grad_small);
        assert_eq!(grad_small, [44.0, 48.0]);
    }

    #[test]
    fn odd_sizes_round_down_to_a_source() {
        // What torch.nn.functional.interpolate(torch.arange(n.), size=m) gives.
        assert_eq!(sources(3, 5), [0, 0, 1, 1, 2]);
        assert_eq!(sources(2, 3), [0, 0, 1]);
        assert_eq!(sources(4, 7), [0, 0, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn the_gradient_is_the_transpose() {
        // <upsample(s), g> = <s, upsample'(g)>, exact because all are small whole numbers.
        for [small_map, large_map] in [maps([3, 4], [6, 8]), maps([3, 4], [5, 7]), maps([1, 1], [3, 2])] {
            let small: Vec<f32> = (0..small_map.len()).map(|i| (i * 31 % 17) as f32).collect();
            let grad_large: Vec<f32> = (0..large_map.len()).map(|i| (i * 37 % 19) as f32).collect();
            let mut grad_small = vec![7.0; small_map.len()];
            let large = upsample_add(&small_map, &small, &large_map, &vec![0.0; large_map.len()]);
            upsample_add_backward(&small_map, &large_map, &grad_large, &mut grad_small);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            assert_eq!(dot(&large, &grad_large), dot(&small, &grad_small));
        }
    }
}
