//! Group norm: moments of each image's groups of channels, the norm, and its gradient.
//!
//! [Wu and He, 2018](https://arxiv.org/abs/1803.08494). Maps are channels-last, `[B, pixels, C]`; a group is `C / groups`
//! neighbouring channels of one image. Sums are cut by the shape alone, so that the number of threads changes no bit.

use rayon::prelude::*;

use crate::isa::{Isa, Kernels, Target, per_isa};

/// Pixels summed in `f32`, relative to the first of them: what is lost is small beside their own spread.
const BLOCK: usize = 64;
/// Ranges of pixels that are summed on their own, if there are so many blocks.
const RANGES: usize = 64;
/// Floats of a part of a pass without sums: 256 KiB.
const PART: usize = 64 * 1024;

/// The sizes of a map that group norm sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupShape {
    /// Images, B.
    pub batch: usize,
    /// Pixels of an image.
    pub pixels: usize,
    /// Channels, C.
    pub channels: usize,
    /// Groups that the channels are split into.
    pub groups: usize,
}

impl GroupShape {
    fn image_len(&self) -> usize {
        self.pixels * self.channels
    }

    fn group_size(&self) -> usize {
        self.channels / self.groups
    }

    /// Values that one mean is taken of.
    fn values_per_group(&self) -> f64 {
        (self.pixels * self.group_size()) as f64
    }

    /// Floats of a range of an image's pixels that is summed on its own.
    fn range_len(&self) -> usize {
        let ranges = RANGES.div_ceil(self.batch.max(1));
        self.pixels.div_ceil(ranges).next_multiple_of(BLOCK).max(BLOCK) * self.channels
    }

    fn check(&self, len: usize) {
        assert!(
            self.groups > 0 && self.channels > 0 && self.channels.is_multiple_of(self.groups),
            "groups divide the channels: {self:?}"
        );
        assert_eq!(len, self.batch * self.image_len(), "length of a map of {self:?}");
    }
}

/// The mean and the biased variance of each image's groups, both `[B, groups]`.
///
/// Blocks of 64 pixels are summed relative to their first pixel and merged in `f64` (Chan, Golub and LeVeque, 1979), so
/// that a mean far from zero costs no digits of the variance. Without pixels both are 0.
///
/// # Panics
///
/// If the length does not fit the shape, or the groups do not divide the channels.
pub fn group_moments(x: &[f32], shape: &GroupShape) -> (Vec<f32>, Vec<f32>) {
    shape.check(x.len());
    let kernels = Kernels::new(Isa::detect());
    if x.is_empty() {
        return (vec![0.0; shape.batch * shape.groups], vec![0.0; shape.batch * shape.groups]);
    }
    let images = x.par_chunks(shape.image_len()).map(|x| image_moments(kernels, x, shape));
    images.flatten().collect::<Vec<(f32, f32)>>().into_iter().unzip()
}

/// Mean and variance of each group of one image.
fn image_moments(kernels: Kernels, x: &[f32], shape: &GroupShape) -> Vec<(f32, f32)> {
    let ranges = x.par_chunks(shape.range_len()).map(|x| {
        let mut moments = vec![Moments::default(); shape.channels];
        add_moments(kernels, x, &mut moments);
        moments
    });
    let ranges: Vec<Vec<Moments>> = ranges.collect();
    let group = |group: usize| {
        let mut moments = Moments::default();
        for channel in group * shape.group_size()..(group + 1) * shape.group_size() {
            for range in &ranges {
                moments = moments.merge(range[channel]);
            }
        }
        (moments.mean as f32, (moments.squares / moments.count) as f32)
    };
    (0..shape.groups).map(group).collect()
}

/// Of some values: how many, their mean, and the sum of squared distances from it.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Those of both sets of values; not both are empty.
    #[inline(always)]
    fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        let share = other.count / count;
        let distance = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + distance * share,
            squares: self.squares + other.squares + distance * distance * self.count * share,
        }
    }
}

/// `y = gamma * (x - mean) * inv_std + beta`, then a ReLU if `relu`.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// The sizes of the map.
    pub shape: GroupShape,
    /// `[B, groups]`, as [`group_moments`] returns it.
    pub mean: &'a [f32],
    /// `1 / sqrt(variance + epsilon)`, `[B, groups]`.
    pub inv_std: &'a [f32],
    /// Scale, `[C]`.
    pub gamma: &'a [f32],
    /// Shift, `[C]`.
    pub beta: &'a [f32],
    /// Whether negative results become zero.
    pub relu: bool,
}

/// What one image's pixels are computed from, per channel.
#[derive(Clone, Copy)]
struct Image<'a> {
    mean: &'a [f32],
    /// `gamma * inv_std`.
    scale: &'a [f32],
    beta: &'a [f32],
    relu: bool,
}

impl GroupNorm<'_> {
    /// Writes the norm of `x` to `y`, both `[B, pixels, C]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit the shape, or the groups do not divide the channels.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        let kernels = self.check([x.len(), y.len()]);
        if x.is_empty() {
            return;
        }
        let part = self.part_len();
        let images = x.par_chunks(self.shape.image_len()).zip(y.par_chunks_mut(self.shape.image_len()));
        images.enumerate().for_each(|(b, (x, y))| {
            let (mean, scale) = self.per_channel(b);
            let image = Image { mean: &mean, scale: &scale, beta: self.beta, relu: self.relu };
            x.par_chunks(part).zip(y.par_chunks_mut(part)).for_each(|(x, y)| normalize(kernels, x, image, y));
        });
    }

    /// Writes the gradient with regard to `x`, which the moments depend on, to `grad_x`; returns those with regard to gamma
    /// and beta.
    ///
    /// Two passes over `x` and `grad_y`. Where the ReLU clipped is computed again, with the bits of [`GroupNorm::forward`].
    ///
    /// # Panics
    ///
    /// As [`GroupNorm::forward`].
    pub fn backward(&self, x: &[f32], grad_y: &[f32], grad_x: &mut [f32]) -> (Vec<f32>, Vec<f32>) {
        let kernels = self.check([x.len(), grad_x.len()]);
        assert_eq!(grad_y.len(), x.len(), "the gradient has the shape of the map");
        let channels = self.shape.channels;
        if x.is_empty() {
            return (vec![0.0; channels], vec![0.0; channels]);
        }
        let len = self.shape.image_len();
        let images = x.par_chunks(len).zip(grad_y.par_chunks(len)).zip(grad_x.par_chunks_mut(len)).enumerate();
        let sums = images.map(|(b, ((x, grad_y), grad_x))| self.image_backward(kernels, b, [x, grad_y], grad_x));
        let (mut grad_gamma, mut grad_beta) = (vec![0.0; channels], vec![0.0; channels]);
        for (b, sums) in sums.collect::<Vec<Vec<f64>>>().iter().enumerate() {
            for c in 0..channels {
                grad_beta[c] += sums[c];
                grad_gamma[c] += sums[channels + c] * f64::from(self.inv_std[self.group(b, c)]);
            }
        }
        let narrow = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect();
        (narrow(grad_gamma), narrow(grad_beta))
    }

    /// Writes one image's gradient; returns, per channel, the sums of `grad_y` and of `grad_y * (x - mean)`.
    fn image_backward(&self, kernels: Kernels, b: usize, [x, grad_y]: [&[f32]; 2], grad_x: &mut [f32]) -> Vec<f64> {
        let (mean, scale) = self.per_channel(b);
        let image = Image { mean: &mean, scale: &scale, beta: self.beta, relu: self.relu };
        let range = self.shape.range_len();
        let ranges = x.par_chunks(range).zip(grad_y.par_chunks(range)).map(|(x, grad_y)| {
            let mut sums = vec![0.0; 2 * self.shape.channels];
            add_gradient_sums(kernels, x, grad_y, image, &mut sums);
            sums
        });
        let mut sums = vec![0.0; 2 * self.shape.channels];
        for range in ranges.collect::<Vec<Vec<f64>>>() {
            for (sum, part) in sums.iter_mut().zip(range) {
                *sum += part;
            }
        }
        let (of_x, constant) = self.factors(b, &sums);
        let part = self.part_len();
        let parts = x.par_chunks(part).zip(grad_y.par_chunks(part)).zip(grad_x.par_chunks_mut(part));
        parts.for_each(|((x, grad_y), grad_x)| combine(kernels, x, grad_y, image, [&of_x, &constant], grad_x));
        sums
    }

    /// Per channel of an image, what `x - mean` and 1 are multiplied with in
    /// `grad_x = inv_std * (gamma * grad_y - mean(gamma * grad_y) - xhat * mean(gamma * grad_y * xhat))`.
    fn factors(&self, b: usize, sums: &[f64]) -> (Vec<f32>, Vec<f32>) {
        let (gradients, products) = sums.split_at(self.shape.channels);
        let factors = |c: usize| {
            let group = c / self.shape.group_size();
            let weighted = |sums: &[f64]| {
                let channels = group * self.shape.group_size()..(group + 1) * self.shape.group_size();
                channels.map(|c| f64::from(self.gamma[c]) * sums[c]).sum::<f64>() / self.shape.values_per_group()
            };
            let inv_std = f64::from(self.inv_std[self.group(b, c)]);
            ((-inv_std.powi(3) * weighted(products)) as f32, (-inv_std * weighted(gradients)) as f32)
        };
        (0..self.shape.channels).map(factors).unzip()
    }

    /// Per channel of an image: its mean, and `gamma * inv_std`.
    fn per_channel(&self, b: usize) -> (Vec<f32>, Vec<f32>) {
        let channels = (0..self.shape.channels).map(|c| (c, self.group(b, c)));
        channels.map(|(c, group)| (self.mean[group], self.gamma[c] * self.inv_std[group])).unzip()
    }

    fn group(&self, b: usize, channel: usize) -> usize {
        b * self.shape.groups + channel / self.shape.group_size()
    }

    fn part_len(&self) -> usize {
        (PART / self.shape.channels).max(1) * self.shape.channels
    }

    fn check(&self, lens: [usize; 2]) -> Kernels {
        lens.into_iter().for_each(|len| self.shape.check(len));
        let groups = self.shape.batch * self.shape.groups;
        assert_eq!([self.mean.len(), self.inv_std.len()], [groups; 2], "one moment per image and group");
        assert_eq!([self.gamma.len(), self.beta.len()], [self.shape.channels; 2], "one gamma and beta per channel");
        Kernels::new(Isa::detect())
    }
}

per_isa! {
    /// Merges the pixels of `x` into the moments of each channel.
    fn add_moments(x: &[f32], moments: &mut [Moments]) = add_moments_body
}

per_isa! {
    fn normalize(x: &[f32], image: Image<'_>, y: &mut [f32]) = normalize_body
}

per_isa! {
    /// Adds to `sums`, `[2][C]`, the sums of `grad_y` and of `grad_y * (x - mean)`.
    fn add_gradient_sums(x: &[f32], grad_y: &[f32], image: Image<'_>, sums: &mut [f64]) = add_gradient_sums_body
}

per_isa! {
    /// `grad_x = scale * grad_y + of_x * (x - mean) + constant`.
    fn combine(x: &[f32], grad_y: &[f32], image: Image<'_>, factors: [&[f32]; 2], grad_x: &mut [f32]) = combine_body
}

#[inline(always)]
fn add_moments_body<T: Target>(x: &[f32], moments: &mut [Moments]) {
    let channels = moments.len();
    let mut block_sums = vec![0.0_f32; 2 * channels];
    for block in x.chunks(BLOCK * channels) {
        block_sums.fill(0.0);
        let (sums, squares) = block_sums.split_at_mut(channels);
        let shift = &block[..channels];
        for pixel in block.chunks_exact(channels) {
            for (((x, shift), sum), square) in pixel.iter().zip(shift).zip(&mut *sums).zip(&mut *squares) {
                let distance = x - shift;
                *sum += distance;
                *square = T::mul_add(distance, distance, *square);
            }
        }
        let count = (block.len() / channels) as f64;
        for (((moments, shift), sum), square) in moments.iter_mut().zip(shift).zip(sums).zip(squares) {
            let mean = f64::from(*sum) / count;
            let squares = (f64::from(*square) - mean * f64::from(*sum)).max(0.0);
            *moments = moments.merge(Moments { count, mean: f64::from(*shift) + mean, squares });
        }
    }
}

/// The norm of one value before the ReLU, the same bits wherever it is used.
#[inline(always)]
fn norm<T: Target>(x: f32, mean: f32, scale: f32, beta: f32) -> f32 {
    T::mul_add(x - mean, scale, beta)
}

#[inline(always)]
fn normalize_body<T: Target>(x: &[f32], image: Image<'_>, y: &mut [f32]) {
    let channels = image.mean.len();
    for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
        let constants = image.mean.iter().zip(image.scale).zip(image.beta);
        for ((x, y), ((mean, scale), beta)) in x.iter().zip(y).zip(constants) {
            let value = norm::<T>(*x, *mean, *scale, *beta);
            *y = if image.relu && value < 0.0 { 0.0 } else { value };
        }
    }
}

#[inline(always)]
fn add_gradient_sums_body<T: Target>(x: &[f32], grad_y: &[f32], image: Image<'_>, sums: &mut [f64]) {
    let channels = image.mean.len();
    let mut block_sums = vec![0.0_f32; 2 * channels];
    for (x, grad_y) in x.chunks(BLOCK * channels).zip(grad_y.chunks(BLOCK * channels)) {
        block_sums.fill(0.0);
        let (gradients, products) = block_sums.split_at_mut(channels);
        for (x, grad_y) in x.chunks_exact(channels).zip(grad_y.chunks_exact(channels)) {
            let constants = image.mean.iter().zip(image.scale).zip(image.beta);
            let block_sums = gradients.iter_mut().zip(&mut *products);
            for (((x, grad), ((mean, scale), beta)), (gradient, product)) in
                x.iter().zip(grad_y).zip(constants).zip(block_sums)
            {
                let grad = if image.relu && norm::<T>(*x, *mean, *scale, *beta) <= 0.0 { 0.0 } else { *grad };
                *gradient += grad;
                *product = T::mul_add(grad, x - mean, *product);
            }
        }
        for (sum, block) in sums.iter_mut().zip(&block_sums) {
            *sum += f64::from(*block);
        }
    }
}

#[inline(always)]
fn combine_body<T: Target>(
    x: &[f32],
    grad_y: &[f32],
    image: Image<'_>,
    [of_x, constant]: [&[f32]; 2],
    grad_x: &mut [f32],
) {
    let channels = image.mean.len();
    let pixels = x.chunks_exact(channels).zip(grad_y.chunks_exact(channels)).zip(grad_x.chunks_exact_mut(channels));
    for ((x, grad_y), grad_x) in pixels {
        let constants = image.mean.iter().zip(image.scale).zip(image.beta).zip(of_x.iter().zip(constant));
        for (((x, grad), out), (((mean, scale), beta), (of_x, constant))) in
            x.iter().zip(grad_y).zip(grad_x).zip(constants)
        {
            let grad = if image.relu && norm::<T>(*x, *mean, *scale, *beta) <= 0.0 { 0.0 } else { *grad };
            *out = T::mul_add(*scale, grad, T::mul_add(*of_x, x - mean, *constant));
        }
    }
}
