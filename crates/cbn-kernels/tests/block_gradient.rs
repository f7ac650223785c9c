//! The gradient of a frozen block against `f64`, from the convolution's result that the kernels do not see.

use cbn_kernels::{BlockGradientSums, linear_block_gradient, relu_block_gradient};

/// Blocks of 64 are summed in `f32`: relative to the sum of absolute values, a few roundings of 6e-8.
const SUM_TOLERANCE: f64 = 1e-6;

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i + seed) * 7919 % 10_007) as f32 / 10_007.0 - 0.4).collect()
}

/// A block's maps and parameters.
struct Block {
    conv: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    residual: Option<Vec<f32>>,
    grad_out: Vec<f32>,
    relu: bool,
}

impl Block {
    fn all(pixels: usize, channels: usize) -> Vec<Self> {
        let len = pixels * channels;
        let block = |(has_residual, relu): (bool, bool)| Self {
            conv: values(len, 0),
            // None is 0: from 0.6 to 1.6.
            scale: values(channels, 3).iter().map(|value| value + 1.0).collect(),
            shift: values(channels, 4),
            residual: has_residual.then(|| values(len, 7)),
            grad_out: values(len, 5),
            relu,
        };
        [(false, false), (false, true), (true, false), (true, true)].map(block).into()
    }

    fn out(&self) -> Vec<f32> {
        let out = |(i, conv): (usize, &f32)| {
            let c = i % self.scale.len();
            let out = self.scale[c] * conv + self.shift[c] + self.residual.as_ref().map_or(0.0, |values| values[i]);
            if self.relu { out.max(0.0) } else { out }
        };
        self.conv.iter().enumerate().map(out).collect()
    }

    /// The masked gradient, and the sums.
    fn run(&self, out: &[f32]) -> (Vec<f32>, BlockGradientSums) {
        let (residual, channels) = (self.residual.as_deref(), self.scale.len());
        if !self.relu {
            return (self.grad_out.clone(), linear_block_gradient(out, residual, &self.grad_out, channels));
        }
        relu_block_gradient(out, residual, &self.grad_out, channels)
    }
}

#[test]
fn shift_and_scale_have_the_gradients_of_f64() {
    for (pixels, channels) in [(1, 1), (63, 3), (1000, 65), (4999, 7), (9000, 64)] {
        for block in Block::all(pixels, channels) {
            let out = block.out();
            let (g, sums) = block.run(&out);
            let (shift, scale) = (sums.shift(), sums.scale(&block.scale, &block.shift));
            for c in 0..channels {
                let (mut gradient, mut product, mut size) = (0.0, 0.0, 0.0);
                for i in (c..out.len()).step_by(channels) {
                    let expected = if block.relu && out[i] <= 0.0 { 0.0 } else { block.grad_out[i] };
                    assert_eq!(g[i], expected);
                    gradient += f64::from(expected);
                    product += f64::from(expected) * f64::from(block.conv[i]);
                    size += f64::from(expected).abs();
                }
                assert!((f64::from(shift[c]) - gradient).abs() <= SUM_TOLERANCE * size, "shift of channel {c}");
                // `out` is rounded where `conv` is not: |out| is below 2, the scale above 0.6.
                assert!((f64::from(scale[c]) - product).abs() <= 4.0 * SUM_TOLERANCE * size, "scale of channel {c}");
            }
        }
    }
}

#[test]
fn a_scale_of_zero_has_gradient_zero() {
    let sums = linear_block_gradient(&[3.0, 2.0], None, &[1.0, 1.0], 2);
    assert_eq!(sums.scale(&[0.0, 2.0], &[3.0, 1.0]), [0.0, 0.5]);
}

#[test]
fn no_pixels_sum_to_zero() {
    let (g, sums) = relu_block_gradient(&[], None, &[], 3);
    assert_eq!(g, []);
    assert_eq!(sums, BlockGradientSums { gradient: vec![0.0; 3], product: vec![0.0; 3] });
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for block in Block::all(50_001, 16) {
        let out = block.out();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| block.run(&out))
        };
        let one = on(1);
        assert!((2..=4).all(|threads| on(threads) == one));
    }
}
