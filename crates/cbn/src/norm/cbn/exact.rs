//! Moments of past inputs under the current weight, from a sample of their patches.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::correction::rows;
use crate::ConvGeometry;
use crate::norm::ConvSite;
use crate::norm::buffer::{Buffer, Counter};
use crate::norm::statistics::Moments;
use crate::ops::{mean_patch, row_dots};

/// Patches of a past input, replayed through the current weight; `D = C_in / groups * kh * kw`.
///
/// The mean is that of all positions, `pbar . w`. The variance is that of the sampled outputs, a mean of squares: never negative.
#[derive(Module, Debug)]
pub struct PastPatches {
    /// The mean input patch, `[groups, D]`.
    pub mean_patch: Buffer<2>,
    /// Sampled patches less their own mean, `[groups, positions, D]`, or where D is not larger than `positions` their covariance,
    /// `[groups, D, D]`.
    pub spread: Buffer<3>,
    /// How many patches are held; rows of `spread` from there on are 0.
    pub held: Counter,
    /// The most patches to hold.
    pub positions: usize,
}

impl PastPatches {
    pub(super) fn new(positions: usize, [groups, patch_len]: [usize; 2], device: &Device) -> Self {
        Self {
            mean_patch: Buffer::new(Tensor::zeros([groups, patch_len], device)),
            spread: Buffer::new(Tensor::zeros([groups, positions.min(patch_len), patch_len], device)),
            held: Counter::new(),
            positions,
        }
    }

    /// The moments under `weight`, `[C_out, D]`, differentiable in it.
    pub(super) fn moments(&self, weight: &Tensor<2>) -> Moments {
        let device = weight.device();
        let [out_channels, patch_len] = weight.dims();
        let spread = self.spread.value_beside(&device);
        let groups = spread.dims()[0];
        let grouped = weight.clone().reshape([groups, out_channels / groups, patch_len]);
        let var = if patch_len <= self.positions {
            (grouped.clone().matmul(spread) * grouped).sum_dim(2)
        } else {
            grouped.matmul(spread.swap_dims(1, 2)).square().sum_dim(2) / self.held.get().max(1) as f64
        };
        let mean = row_dots(self.mean_patch.value_beside(&device), weight.clone());
        // A covariance is rounded, so its quadratic form may fall below 0 by that much.
        Moments { mean, var: var.reshape([out_channels]).clamp_min(0.0) }
    }

    /// Takes a sample of the patches of `x`, `[B, H, W, C_in]`, which gave outputs of `size` rows and columns.
    pub(super) fn store(&self, x: Tensor<4>, size: [usize; 2], site: &ConvSite<'_>, iteration: usize) {
        let [_, _, kernel_height, kernel_width] = site.weight.dims();
        let kernel = [kernel_height, kernel_width];
        let places = sampled_places(x.dims()[0] * size[0] * size[1], self.positions, iteration);
        self.mean_patch.set(rows(mean_patch(x.clone(), kernel, site.geometry)));
        let patches = gather_patches(x, &places, size, kernel, site.geometry);
        let [groups, held, patch_len] = patches.dims();
        let centred = patches.clone() - patches.mean_dim(1);
        self.held.set(held);
        self.spread.set(if patch_len <= self.positions {
            centred.clone().swap_dims(1, 2).matmul(centred) / held as f64
        } else {
            let rest = Tensor::zeros([groups, self.positions - held, patch_len], &centred.device());
            if held == self.positions { centred } else { Tensor::cat(vec![centred, rest], 1) }
        });
    }
}

/// At most `count` of the places `0..len`: all, or a random one of each of `count` equal stretches. The iteration is the seed.
fn sampled_places(len: usize, count: usize, iteration: usize) -> Vec<usize> {
    if len <= count {
        return (0..len).collect();
    }
    let stretch = len as f64 / count as f64;
    let place = |i: usize| ((i as f64 + uniform(iteration as u64, i as u64)) * stretch) as usize;
    (0..count).map(|i| place(i).min(len - 1)).collect()
}

/// In [0, 1), by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn uniform(seed: u64, index: u64) -> f64 {
    let mut z = (seed << 32).wrapping_add(index).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// What the convolution reads at output places `(image * H' + row) * W' + column`, `[groups, places, D]`.
fn gather_patches(
    x: Tensor<4>,
    places: &[usize],
    [out_height, out_width]: [usize; 2],
    [kernel_height, kernel_width]: [usize; 2],
    geometry: &ConvGeometry,
) -> Tensor<3> {
    let device = x.device();
    let [batch, height, width, channels] = x.dims();
    let (mut pixels, mut is_inside) = (Vec::new(), Vec::new());
    for place in places {
        let (image, row, column) =
            (place / (out_height * out_width), place / out_width % out_height, place % out_width);
        for (r, s) in (0..kernel_height).flat_map(|r| (0..kernel_width).map(move |s| (r, s))) {
            // Before the first pixel it wraps to a number beyond the last.
            let y = (row * geometry.stride[0] + r * geometry.dilation[0]).wrapping_sub(geometry.padding[0]);
            let x = (column * geometry.stride[1] + s * geometry.dilation[1]).wrapping_sub(geometry.padding[1]);
            let inside = y < height && x < width;
            pixels.push(if inside { ((image * height + y) * width + x) as i64 } else { 0 });
            is_inside.push(f32::from(inside));
        }
    }
    let taps = kernel_height * kernel_width;
    let count = pixels.len();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(pixels, [count]), &device);
    let mask = Tensor::<1>::from_data(TensorData::new(is_inside, [count]), &device).reshape([count, 1]);
    let read = x.reshape([batch * height * width, channels]).select(0, indices) * mask;
    let groups = geometry.groups;
    let read = read.reshape([places.len(), taps, groups, channels / groups]);
    read.permute([2, 0, 3, 1]).reshape([groups, places.len(), channels / groups * taps])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampled_places_are_spread_and_differ_between_iterations() {
        let [first, second] = [1, 2].map(|iteration| sampled_places(1000, 100, iteration));
        assert!(first.iter().enumerate().all(|(i, place)| place / 10 == i), "one of each stretch of ten");
        assert_ne!(first, second);
        assert_eq!(first, sampled_places(1000, 100, 1));
        assert_eq!(sampled_places(7, 100, 1), (0..7).collect::<Vec<_>>());
        // Within its stretch a place is uniform: the mean of a hundred, 4.5 with a standard error of 0.29.
        let mean = first.iter().map(|place| place % 10).sum::<usize>() as f64 / 100.0;
        assert!((mean - 4.5).abs() < 1.2, "{mean}");
    }
}
