//! The method in f64 by another road: direct convolutions, and the Taylor terms from convolutions with the change of the weight,
//! without closed forms, gradients or windows of stored derivatives. Maps are `[B, C, H, W]`.

use cbn::CbnConfig;
use cbn::norm::EpsilonPlace;
use cbn::norm::cbn::{Compensation, Validity, Weighting};

/// A convolution.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    pub channels: [usize; 2],
    pub size: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
}

impl Conv {
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.channels[1], self.channels[0] / self.groups, self.kernel[0], self.kernel[1]]
    }

    pub fn output_size(&self) -> [usize; 2] {
        [0, 1].map(|i| {
            let reach = self.dilation[i] * (self.kernel[i] - 1) + 1;
            (self.size[i] + 2 * self.padding[i] - reach) / self.stride[i] + 1
        })
    }

    pub fn forward(&self, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let [in_channels, out_channels] = self.channels;
        let ([height, width], [out_height, out_width]) = (self.size, self.output_size());
        let group_in = in_channels / self.groups;
        let batch = x.len() / (in_channels * height * width);
        let mut y = Vec::new();
        for image in 0..batch {
            for k in 0..out_channels {
                let first = k / (out_channels / self.groups) * group_in;
                for (row, column) in (0..out_height).flat_map(|row| (0..out_width).map(move |column| (row, column))) {
                    let mut sum = 0.0;
                    for c in 0..group_in {
                        for (r, s) in (0..self.kernel[0]).flat_map(|r| (0..self.kernel[1]).map(move |s| (r, s))) {
                            let at_y = (row * self.stride[0] + r * self.dilation[0]).wrapping_sub(self.padding[0]);
                            let at_x = (column * self.stride[1] + s * self.dilation[1]).wrapping_sub(self.padding[1]);
                            if at_y < height && at_x < width {
                                let pixel = ((image * in_channels + first + c) * height + at_y) * width + at_x;
                                sum +=
                                    x[pixel] * weight[((k * group_in + c) * self.kernel[0] + r) * self.kernel[1] + s];
                            }
                        }
                    }
                    y.push(sum);
                }
            }
        }
        y
    }

    /// The mean over batch and positions of `term(index of the value)`, per channel.
    pub fn channel_mean(&self, len: usize, term: impl Fn(usize) -> f64) -> Vec<f64> {
        let [height, width] = self.output_size();
        let channels = self.channels[1];
        let mut sums = vec![0.0; channels];
        for i in 0..len {
            sums[i / (height * width) % channels] += term(i);
        }
        sums.iter().map(|sum| sum * channels as f64 / len as f64).collect()
    }
}

/// A past iteration.
#[derive(Clone, Debug)]
pub struct Past {
    pub x: Vec<f64>,
    pub weight: Vec<f64>,
}

/// First and second moments of past iterations under one weight, and how many values they are of.
pub type PastMoments = Vec<(Vec<f64>, Vec<f64>, usize)>;

/// What the history says under `weight`, by the definition of the Taylor terms.
pub fn past_moments(conv: &Conv, config: &CbnConfig, past: &[Past], weight: &[f64]) -> PastMoments {
    let rho = match config.compensation {
        Compensation::FirstOrder { rho } => rho,
        Compensation::None {} => 0.0,
        Compensation::Exact { .. } => return true_moments(conv, past, weight),
    };
    let moments = |past: &Past| {
        let change: Vec<f64> = weight.iter().zip(&past.weight).map(|(now, then)| now - then).collect();
        let (y, dy) = (conv.forward(&past.x, &past.weight), conv.forward(&past.x, &change));
        let mean = conv.channel_mean(y.len(), |i| y[i] + rho * dy[i]);
        let second = conv.channel_mean(y.len(), |i| y[i] * y[i] + rho * 2.0 * y[i] * dy[i]);
        (mean, second, y.len() / conv.channels[1])
    };
    past.iter().map(moments).collect()
}

/// The convolution of the past inputs, done again.
fn true_moments(conv: &Conv, past: &[Past], weight: &[f64]) -> PastMoments {
    let moments = |past: &Past| {
        let y = conv.forward(&past.x, weight);
        let [mean, second] = [1, 2].map(|power| conv.channel_mean(y.len(), |i| y[i].powi(power)));
        (mean, second, y.len() / conv.channels[1])
    };
    past.iter().map(moments).collect()
}

/// One training forward pass with an open window.
pub struct Step<'a> {
    pub conv: Conv,
    pub config: &'a CbnConfig,
    pub gamma: &'a [f64],
    pub beta: &'a [f64],
}

impl Step<'_> {
    /// The block's output, `[B, C_out, H', W']`.
    pub fn forward(&self, x: &[f64], weight: &[f64], past: &PastMoments) -> Vec<f64> {
        let y = self.conv.forward(x, weight);
        let [height, width] = self.conv.output_size();
        let channels = self.conv.channels[1];
        let mean = self.conv.channel_mean(y.len(), |i| y[i]);
        let second = self.conv.channel_mean(y.len(), |i| y[i] * y[i]);
        let statistics: Vec<[f64; 2]> =
            (0..channels).map(|c| self.window([mean[c], second[c]], y.len() / channels, c, past)).collect();
        let normalise = |(i, y): (usize, &f64)| {
            let c = i / (height * width) % channels;
            let [mean, std] = statistics[c];
            self.gamma[c] * (y - mean) / std + self.beta[c]
        };
        y.iter().enumerate().map(normalise).collect()
    }

    /// Mean and denominator of a channel.
    fn window(&self, [mean, second]: [f64; 2], positions: usize, channel: usize, past: &PastMoments) -> [f64; 2] {
        let weight = |positions: usize| match self.config.weighting {
            Weighting::Positions => positions as f64,
            Weighting::Iterations => 1.0,
        };
        let mut sums = [weight(positions), weight(positions) * mean, weight(positions) * second];
        // The oldest comes first.
        for (age, (means, seconds, positions)) in (1..=past.len() as i32).rev().zip(past) {
            let (mean, mut second) = (means[channel], seconds[channel]);
            if second < mean * mean {
                match self.config.validity {
                    Validity::Discard => continue,
                    Validity::ClampToMean => second = mean * mean,
                }
            }
            let weight = weight(*positions) * self.config.fading.powi(age);
            sums = [sums[0] + weight, sums[1] + weight * mean, sums[2] + weight * second];
        }
        let [mean, second] = [sums[1] / sums[0], sums[2] / sums[0]];
        let var = second - mean * mean;
        let std = match self.config.epsilon_place {
            EpsilonPlace::InsideRoot => (var + self.config.epsilon).sqrt(),
            EpsilonPlace::OutsideRoot => var.sqrt() + self.config.epsilon,
        };
        [mean, std]
    }
}

/// Values of a normal distribution, more or less, from a seed.
pub fn normal(seed: u64, len: usize, mean: f64, std: f64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    // Rounded to f32, so that both sides compute with the same numbers.
    std::iter::repeat_with(|| f64::from((mean + std * (0..12).map(|_| uniform()).sum::<f64>()) as f32))
        .take(len)
        .collect()
}

/// The gradient of `f` at `at` by central differences.
pub fn numeric_gradient(at: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    // Rounding of 1e-16 / 1e-5 and a third derivative times 1e-10: nine digits.
    let step = 1e-5;
    let mut x = at.to_vec();
    let difference = |i: usize| {
        x[i] = at[i] + step;
        let up = f(&x);
        x[i] = at[i] - step;
        let down = f(&x);
        x[i] = at[i];
        (up - down) / (2.0 * step)
    };
    (0..at.len()).map(difference).collect()
}
