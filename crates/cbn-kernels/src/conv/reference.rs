//! The definition of the convolution and its two gradients, one multiplication at a time.
//!
//! Generic over `f32` and `f64`, so that the tests' truth is computed in `f64`.

use std::ops::{Add, Mul};

use super::ConvShape;

/// `y[b, oy, ox, k] = sum_{c, r, s} x[b, oy * stride + r * dilation - padding, .., c] * w[k, c, r, s]`.
pub fn conv2d_forward<F: Real>(shape: &ConvShape, x: &[F], weight: &[F]) -> Vec<F> {
    let mut y = vec![F::default(); shape.output_len()];
    for_each_product(shape, |x_at, w_at, y_at| y[y_at] = y[y_at] + x[x_at] * weight[w_at]);
    y
}

/// The gradient of a loss with regard to `x`, from that with regard to `y`.
pub fn conv2d_backward_input<F: Real>(shape: &ConvShape, grad_y: &[F], weight: &[F]) -> Vec<F> {
    let mut grad_x = vec![F::default(); shape.input_len()];
    for_each_product(shape, |x_at, w_at, y_at| grad_x[x_at] = grad_x[x_at] + grad_y[y_at] * weight[w_at]);
    grad_x
}

/// The gradient of a loss with regard to `weight`, from that with regard to `y`.
pub fn conv2d_backward_weight<F: Real>(shape: &ConvShape, x: &[F], grad_y: &[F]) -> Vec<F> {
    let mut grad_weight = vec![F::default(); shape.weight_len()];
    for_each_product(shape, |x_at, w_at, y_at| grad_weight[w_at] = grad_weight[w_at] + x[x_at] * grad_y[y_at]);
    grad_weight
}

/// A floating-point number.
pub trait Real: Copy + Default + Add<Output = Self> + Mul<Output = Self> {}
impl Real for f32 {}
impl Real for f64 {}

/// Calls `visit` with the flat indices (input, weight, output) of every product that the convolution sums.
fn for_each_product(shape: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let [kernel_height, kernel_width] = shape.kernel;
    let (group_in, group_out) = (shape.group_in(), shape.group_out());
    for (b, oy, ox) in positions(shape.batch, shape.out_height(), shape.out_width()) {
        for (r, s) in (0..kernel_height).flat_map(|r| (0..kernel_width).map(move |s| (r, s))) {
            let iy = (oy * shape.stride[0] + r * shape.dilation[0]).checked_sub(shape.padding[0]);
            let ix = (ox * shape.stride[1] + s * shape.dilation[1]).checked_sub(shape.padding[1]);
            let (Some(iy), Some(ix)) = (iy, ix) else { continue };
            if iy >= shape.in_height || ix >= shape.in_width {
                continue;
            }
            let pixel_in = (b * shape.in_height + iy) * shape.in_width + ix;
            let pixel_out = (b * shape.out_height() + oy) * shape.out_width() + ox;
            for k in 0..shape.out_channels {
                for c in 0..group_in {
                    visit(
                        pixel_in * shape.in_channels + k / group_out * group_in + c,
                        ((k * group_in + c) * kernel_height + r) * kernel_width + s,
                        pixel_out * shape.out_channels + k,
                    );
                }
            }
        }
    }
}

fn positions(batch: usize, height: usize, width: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..batch).flat_map(move |b| (0..height).flat_map(move |y| (0..width).map(move |x| (b, y, x))))
}
