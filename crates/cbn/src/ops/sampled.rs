//! The weight gradient of some output positions of a convolution.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata};
use burn::tensor::{FloatDType, Shape, Slice, Tensor};
pub use cbn_kernels::Sample;

use super::KernelBackend;
use super::reference::{conv2d_weight_backward, dims4};
use crate::ConvGeometry;

/// The gradient of `sum(grad * conv2d(x, w))` over the sampled positions with respect to w. Not differentiable itself: call it on
/// tensors without autodiff.
///
/// # Shapes
///
/// `x`: `[B, H, W, C_in]`, `grad`: `[B, H', W', C_out]`, result `[C_out, C_in / groups, kh, kw]`.
///
/// # Panics
///
/// If a strip of the sample does not lie on the output.
pub fn conv2d_weight_gradient_of_sample(
    x: Tensor<4>,
    grad: Tensor<4>,
    weight_shape: [usize; 4],
    geometry: &ConvGeometry,
    sample: Sample,
) -> Tensor<4> {
    let (x, grad) = (x.into_dispatch(), grad.into_dispatch());
    let gradient = Dispatch::channels_last_conv2d_weight_backward_of_sample(x, grad, weight_shape, *geometry, sample);
    Tensor::from_dispatch(gradient)
}

/// The definition: the gradient of the convolution of the sample alone, cut out of both maps.
pub(super) fn reference<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    weight_shape: [usize; 4],
    geometry: ConvGeometry,
    sample: &Sample,
) -> FloatTensor<B> {
    let rows_read = sample.shape(&geometry.shape(dims4::<B>(&x), weight_shape)).in_height;
    match sample {
        Sample::Images { first, every } => {
            let images = Slice::with_step(*first as isize, None, *every as isize);
            let of_map = |map| B::float_slice(map, &[images, Slice::full(), Slice::full(), Slice::full()]);
            conv2d_weight_backward::<B>(of_map(x), of_map(grad), weight_shape, geometry)
        }
        Sample::Strips { firsts, rows } => {
            let of_grad = firsts.iter().map(|&first| rows_of::<B>(grad.clone(), first as isize, *rows));
            let grad = B::float_cat(of_grad.collect(), 0);
            let first_read = |first: usize| (first * geometry.stride[0]) as isize - geometry.padding[0] as isize;
            let of_x = firsts.iter().map(|&first| rows_of::<B>(x.clone(), first_read(first), rows_read));
            let x = B::float_cat(of_x.collect(), 0);
            let geometry = ConvGeometry { padding: [0, geometry.padding[1]], ..geometry };
            conv2d_weight_backward::<B>(x, grad, weight_shape, geometry)
        }
    }
}

/// The `count` rows from `first` on of every image, zeros outside the map.
fn rows_of<B: Backend>(map: FloatTensor<B>, first: isize, count: usize) -> FloatTensor<B> {
    let [batch, height, width, channels] = dims4::<B>(&map);
    let device = map.device();
    let last = first + count as isize;
    let inside = [first, last].map(|row| row.clamp(0, height as isize));
    let zeros = |rows: usize| B::float_zeros(Shape::from([batch, rows, width, channels]), &device, FloatDType::F32);
    let above = (inside[0] - first).min(count as isize) as usize;
    let here = (inside[1] - inside[0]) as usize;
    let rows = Slice::new(inside[0], Some(inside[1]), 1);
    let slices = [Slice::full(), rows, Slice::full(), Slice::full()];
    let parts = [(above, None), (here, Some(map)), (count - above - here, None)];
    let parts = parts.into_iter().filter(|(rows, _)| *rows > 0).map(|(rows, map)| match map {
        Some(map) => B::float_slice(map, &slices),
        None => zeros(rows),
    });
    B::float_cat(parts.collect(), 1)
}
