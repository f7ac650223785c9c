//! The gradient of the second moment, from all output positions or from some.

use burn::tensor::Tensor;

use crate::ConvGeometry;
use crate::ops::{Sample, conv2d_weight_gradient, conv2d_weight_gradient_of_sample};

/// Rows of a strip: what a large Winograd tile is high, so that a strip costs its share of the whole.
const STRIP: usize = 6;

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
    let [batch, height, width, _] = y.dims();
    let factor = |positions: usize| 2.0 / positions as f64;
    if every == 1 {
        return conv2d_weight_gradient(x, y, weight_shape, geometry) * factor(batch * height * width);
    }
    let sample = sample([batch, height], [every, start]);
    let sampled = sample.shape(&geometry.shape(x.dims(), weight_shape));
    let positions = sampled.batch * sampled.out_height() * width;
    conv2d_weight_gradient_of_sample(x, y, weight_shape, geometry, sample) * factor(positions)
}

/// Whole images if there are many, else strips of rows; the last strip of a map is moved up to fit, over rows of the one before.
fn sample([batch, height]: [usize; 2], [every, start]: [usize; 2]) -> Sample {
    /// Of each sample, at least.
    const MIN_IMAGES: usize = 4;
    if batch >= MIN_IMAGES * every {
        return Sample::Images { first: start % every, every };
    }
    let rows = STRIP.min(height.div_ceil(every));
    let count = height.div_ceil(rows);
    let every = every.min(count);
    let firsts = (start % every..count).step_by(every).map(|strip| (strip * rows).min(height - rows)).collect();
    Sample::Strips { firsts, rows }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn strips_take_turns() {
        let strips = |firsts: &[usize], rows| Sample::Strips { firsts: firsts.to_vec(), rows };
        let of_28 = [0, 1].map(|start| sample([2, 28], [2, start]));
        assert_eq!(of_28, [strips(&[0, 12, 22], 6), strips(&[6, 18], 6)]);
        // Fewer rows than strips are wanted.
        let of_2 = [0, 1, 2].map(|start| sample([2, 2], [4, start]));
        assert_eq!(of_2, [strips(&[0], 1), strips(&[1], 1), strips(&[0], 1)]);
    }

    /// Every strip of a map together is the whole map, so the mean over the starts is the gradient.
    #[test]
    fn the_mean_over_the_starts_is_the_gradient() {
        let device = Device::default();
        let geometries = [([3, 3], [1, 1], [1, 1], [1, 1], 2), ([5, 3], [2, 1], [4, 0], [2, 1], 1)];
        for (kernel, stride, padding, dilation, groups) in geometries {
            let geometry = ConvGeometry { stride, padding, dilation, groups };
            let weight_shape = [4, 6 / groups, kernel[0], kernel[1]];
            let x = Tensor::random([2, 36, 9, 6], Distribution::Normal(0.2, 1.0), &device);
            let shape = geometry.shape([2, 36, 9, 6], weight_shape);
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
