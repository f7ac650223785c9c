//! The gradient of the second moment, from all output positions or from some.

use burn::tensor::{Slice, Tensor};

use crate::ConvGeometry;
use crate::ops::conv2d_weight_gradient;

/// Rows of a strip: what a Winograd tile is high, so that a strip costs its share of the whole.
const STRIP: usize = 4;

/// `d mean(y^2) / d w = (2 / M) * sum_m y_m p_m` over the sampled output positions.
///
/// `[every, start]`: of the images, or of the strips of output rows if there are few images, every n-th from number `start` modulo n on.
///
/// # Shapes
///
/// `x`: `[B, H, W, C_in]`, `y`: `[B, H', W', C_out]`, result `[C_out, C_in / groups, kh, kw]`.
pub(super) fn sampled_second_gradient(
    x: Tensor<4>,
    y: Tensor<4>,
    weight_shape: [usize; 4],
    geometry: &ConvGeometry,
    [every, start]: [usize; 2],
) -> Tensor<4> {
    let (batch, height) = (y.dims()[0], y.dims()[1]);
    if every == 1 {
        return second_gradient(x, y, weight_shape, geometry);
    }
    if batch >= STRIP * every {
        let [x, y] = [x, y].map(|map| map.slice(Slice::with_step((start % every) as isize, None, every as isize)));
        return second_gradient(x, y, weight_shape, geometry);
    }
    let strips = Strips::new(height, every, start);
    let (x, y) = (strips.of_input(x, weight_shape[2], geometry), strips.of_output(y));
    let geometry = ConvGeometry { padding: [0, geometry.padding[1]], ..*geometry };
    second_gradient(x, y, weight_shape, &geometry)
}

fn second_gradient(x: Tensor<4>, y: Tensor<4>, weight_shape: [usize; 4], geometry: &ConvGeometry) -> Tensor<4> {
    let [batch, height, width, _] = y.dims();
    conv2d_weight_gradient(x, y, weight_shape, geometry) * (2.0 / (batch * height * width) as f64)
}

/// Strips of output rows of equal height; the last one of a map is moved up to fit, over rows of the one before.
#[derive(Debug, PartialEq)]
struct Strips {
    firsts: Vec<usize>,
    rows: usize,
}

impl Strips {
    fn new(height: usize, every: usize, start: usize) -> Self {
        let rows = STRIP.min(height.div_ceil(every));
        let count = height.div_ceil(rows);
        let every = every.min(count);
        let firsts = (start % every..count).step_by(every).map(|strip| (strip * rows).min(height - rows)).collect();
        Self { firsts, rows }
    }

    /// The strips of the output, one after the other in the batch, `[B * strips, rows, W', C_out]`.
    fn of_output(&self, y: Tensor<4>) -> Tensor<4> {
        let [batch, ..] = y.dims();
        Tensor::cat(self.firsts.iter().map(|&first| y.clone().slice([0..batch, first..first + self.rows])).collect(), 0)
    }

    /// What the convolution reads for each, vertical padding included, `[B * strips, rows read, W, C_in]`.
    fn of_input(&self, x: Tensor<4>, kernel_height: usize, geometry: &ConvGeometry) -> Tensor<4> {
        let [batch, height, width, channels] = x.dims();
        let (stride, padding) = (geometry.stride[0], geometry.padding[0]);
        let reach = (self.rows - 1) * stride + geometry.dilation[0] * (kernel_height - 1) + 1;
        let strip = |&first: &usize| {
            let start = first * stride;
            let inside = start.saturating_sub(padding).min(height)..(start + reach).saturating_sub(padding).min(height);
            let above = padding.saturating_sub(start).min(reach);
            let below = reach - above - inside.len();
            let zeros = |rows: usize| Tensor::zeros([batch, rows, width, channels], &x.device());
            let parts = [zeros(above), x.clone().slice([0..batch, inside]), zeros(below)];
            Tensor::cat(parts.into_iter().filter(|part| part.dims()[1] > 0).collect(), 1)
        };
        Tensor::cat(self.firsts.iter().map(strip).collect(), 0)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn strips_take_turns() {
        let strips = |start| Strips::new(18, 2, start).firsts;
        assert_eq!([strips(0), strips(1)], [vec![0, 8, 14], vec![4, 12]]);
        // Fewer rows than strips are wanted.
        assert_eq!([0, 1, 2].map(|start| Strips::new(2, 4, start).firsts), [vec![0], vec![1], vec![0]]);
    }

    /// Every strip of a map together is the whole map, so the mean over the starts is the gradient.
    #[test]
    fn the_mean_over_the_starts_is_the_gradient() {
        let device = Device::default();
        let geometries = [([3, 3], [1, 1], [1, 1], [1, 1], 2), ([5, 3], [2, 1], [4, 0], [2, 1], 1)];
        for (kernel, stride, padding, dilation, groups) in geometries {
            let geometry = ConvGeometry { stride, padding, dilation, groups };
            let weight_shape = [4, 6 / groups, kernel[0], kernel[1]];
            let x = Tensor::random([2, 32, 9, 6], Distribution::Normal(0.2, 1.0), &device);
            let shape = geometry.shape([2, 32, 9, 6], weight_shape);
            let y = Tensor::random([2, shape.out_height(), shape.out_width(), 4], Distribution::Default, &device);
            let strips = shape.out_height() / STRIP;
            assert_eq!(strips * STRIP, shape.out_height(), "strips that divide the map: none overlaps");
            let sampled =
                |every, start| sampled_second_gradient(x.clone(), y.clone(), weight_shape, &geometry, [every, start]);
            let sum = (0..strips).map(|start| sampled(strips, start)).reduce(|a, b| a + b).expect("some strips");
            let distance = (sum / strips as f64 - sampled(1, 0)).abs().max().into_scalar::<f32>();
            // Sums of a few hundred products of order 1, in other orders.
            assert!(distance < 1e-5, "{geometry:?}: {distance}");
        }
    }

    #[test]
    fn many_images_are_sampled_whole() {
        let device = Device::default();
        let geometry = ConvGeometry::default();
        let [x, y] = [3, 2].map(|c| Tensor::<4>::random([9, 2, 2, c], Distribution::Default, &device));
        let sampled = sampled_second_gradient(x.clone(), y.clone(), [2, 3, 1, 1], &geometry, [2, 1]);
        let odd = Tensor::<1, burn::tensor::Int>::from_ints([1, 3, 5, 7], &device);
        let expected =
            sampled_second_gradient(x.select(0, odd.clone()), y.select(0, odd), [2, 3, 1, 1], &geometry, [1, 0]);
        assert_eq!(sampled.into_data(), expected.into_data());
    }
}
