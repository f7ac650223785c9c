//! The definition of every operation, on Burn's own operations: for any backend, and what the kernels are tested against.

use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, ExecutionError, TensorMetadata};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{FloatDType, IntDType, Shape, Slice, TensorData};
use cbn_kernels::{MapShape, PyramidLevel};

use super::{
    Addend, BlockGradients, GroupNormGradients, GroupNormOptions, NormalizeGradients, PoolGeometry, PyramidRoi, Roi,
    RoiAlignConfig,
};
use crate::ConvGeometry;
use crate::process_group::Peers;

const TO_NCHW: [usize; 4] = [0, 3, 1, 2];
const TO_NHWC: [usize; 4] = [0, 2, 3, 1];

fn nchw<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_permute(x, &TO_NCHW)
}

fn nhwc<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_permute(x, &TO_NHWC)
}

fn options(geometry: ConvGeometry) -> ConvOptions<2> {
    ConvOptions::new(geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
}

fn zeros<B: Backend>(shape: [usize; 4], device: &Device<B>) -> FloatTensor<B> {
    B::float_zeros(Shape::from(shape), device, FloatDType::F32)
}

pub(super) fn conv2d<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, geometry: ConvGeometry) -> FloatTensor<B> {
    nhwc::<B>(B::conv2d(nchw::<B>(x), weight, None, options(geometry)))
}

/// `[K]` or a row of a table as a factor of `[B, H, W, K]`.
fn per_channel<B: Backend>(values: FloatTensor<B>) -> FloatTensor<B> {
    let channels = values.shape().num_elements();
    B::float_reshape(values, Shape::from([1, 1, 1, channels]))
}

fn relu_if<B: Backend>(relu: bool, x: FloatTensor<B>) -> FloatTensor<B> {
    if relu { B::relu(x) } else { x }
}

pub(super) fn conv_block<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    affine: FloatTensor<B>,
    residual: Addend<B>,
    geometry: ConvGeometry,
    relu: bool,
) -> FloatTensor<B> {
    let [scale, shift] = split_rows::<B, 2>(affine).map(per_channel::<B>);
    let sum = B::float_add(B::float_mul(conv2d::<B>(x, weight, geometry), scale), shift);
    let sum = match residual {
        Addend::Nothing => sum,
        Addend::Map(residual) => B::float_add(sum, residual),
    };
    relu_if::<B>(relu, sum)
}

/// From x, weight, affine, out and the gradient of out.
pub(super) fn conv_block_backward<B: Backend>(
    [x, weight, affine, out, grad]: [FloatTensor<B>; 5],
    geometry: ConvGeometry,
    relu: bool,
) -> BlockGradients<B> {
    let sum = if relu { B::relu_backward(out, grad) } else { grad };
    let product = rows::<B>(B::float_mul(sum.clone(), conv2d::<B>(x, weight, geometry)));
    let of_affine = [product, rows::<B>(sum.clone())].map(|terms| B::float_sum_dim(terms, 0));
    let affine = B::float_reshape(B::float_cat(of_affine.to_vec(), 0), affine.shape());
    BlockGradients { sum, affine }
}

pub(super) fn conv2d_x_backward<B: Backend>(
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    [batch, height, width, channels]: [usize; 4],
    geometry: ConvGeometry,
) -> FloatTensor<B> {
    // Burn asks for the input, of which it reads the shape only.
    let x = zeros::<B>([batch, channels, height, width], &grad.device());
    nhwc::<B>(B::conv2d_x_backward(x, weight, nchw::<B>(grad), options(geometry)))
}

pub(super) fn conv2d_weight_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    weight_shape: [usize; 4],
    geometry: ConvGeometry,
) -> FloatTensor<B> {
    let weight = zeros::<B>(weight_shape, &grad.device());
    B::conv2d_weight_backward(nchw::<B>(x), weight, nchw::<B>(grad), options(geometry))
}

/// The weight gradient of a convolution with one output channel per group, from an upstream gradient of `1 / positions`.
pub(super) fn mean_patch<B: Backend>(x: FloatTensor<B>, kernel: [usize; 2], geometry: ConvGeometry) -> FloatTensor<B> {
    let dims = dims4::<B>(&x);
    let weight_shape = [geometry.groups, dims[3] / geometry.groups, kernel[0], kernel[1]];
    let shape = geometry.shape(dims, weight_shape);
    let grad_shape = [shape.batch, shape.out_height(), shape.out_width(), geometry.groups];
    let positions = (grad_shape[0] * grad_shape[1] * grad_shape[2]) as f32;
    let grad = B::float_add_scalar(zeros::<B>(grad_shape, &x.device()), (1.0 / positions).into());
    conv2d_weight_backward::<B>(x, grad, weight_shape, geometry)
}

pub(super) fn moments<B: Backend>(y: FloatTensor<B>) -> FloatTensor<B> {
    let y = rows::<B>(y);
    let mean = B::float_mean_dim(y.clone(), 0);
    let centred = B::float_sub(y, mean.clone());
    let var = B::float_mean_dim(B::float_mul(centred.clone(), centred), 0);
    B::float_cat(vec![mean, var], 0)
}

pub(super) fn row_dots<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
    let ([groups, len], rows) = (dims2::<B>(&a), b.shape()[0]);
    let a = B::float_reshape(a, Shape::from([groups, 1, len]));
    let b = B::float_reshape(b, Shape::from([groups, rows / groups, len]));
    B::float_reshape(B::float_sum_dim(B::float_mul(a, b), 2), Shape::from([rows]))
}

pub(super) fn row_dots_backward<B: Backend>(
    a: FloatTensor<B>,
    grad: FloatTensor<B>,
    [rows, len]: [usize; 2],
) -> FloatTensor<B> {
    let groups = a.shape()[0];
    let a = B::float_reshape(a, Shape::from([groups, 1, len]));
    let grad = B::float_reshape(grad, Shape::from([groups, rows / groups, 1]));
    B::float_reshape(B::float_mul(a, grad), Shape::from([rows, len]))
}

/// Of y, gamma, beta, moments and factors.
pub(super) fn normalize<B: Backend>(
    [y, gamma, beta, moments, factors]: [FloatTensor<B>; 5],
    relu: bool,
) -> FloatTensor<B> {
    let [mean, _] = split_rows::<B, 2>(moments);
    let [inv_std, _, _] = split_rows::<B, 3>(factors);
    let scale = B::float_mul(row::<B>(gamma), inv_std);
    let shape = y.shape();
    let centred = B::float_sub(rows::<B>(y), mean);
    let out = B::float_reshape(B::float_add(B::float_mul(centred, scale), row::<B>(beta)), shape);
    relu_if::<B>(relu, out)
}

/// See docs/cbn.md: with `S = sum g` and `T = sum g * (y - mean)` of a channel,
///
/// ```text
/// dL/dbeta  = S                       dL/dgamma = inv_std * T
/// dL/dvar   = gamma * T * slope       dL/dmean  = -gamma * inv_std * S
/// dL/dy     = gamma * inv_std * g + share / M * (dL/dmean + 2 * (y - mean) * dL/dvar)
/// ```
///
/// where g is the gradient under the ReLU, if there is one. With peers, S, T and M in the last line are the sums over all of them.
pub(super) fn normalize_backward<B: Backend>(
    [y, gamma, beta, moments, factors]: [FloatTensor<B>; 5],
    grad: FloatTensor<B>,
    relu: bool,
    peers: &Peers,
) -> NormalizeGradients<B> {
    let grad = if relu {
        let out = normalize::<B>([y.clone(), gamma.clone(), beta, moments.clone(), factors.clone()], relu);
        B::relu_backward(out, grad)
    } else {
        grad
    };
    let [mean, _] = split_rows::<B, 2>(moments);
    let [inv_std, slope, share] = split_rows::<B, 3>(factors);
    let shape = y.shape();
    let (y, grad) = (rows::<B>(y), rows::<B>(grad));
    let positions = y.shape()[0];
    let channels = Shape::from([y.shape()[1]]);
    let gamma = row::<B>(gamma);

    let sum = B::float_sum_dim(grad.clone(), 0);
    let centred = B::float_sub(y, mean);
    let weighted = B::float_sum_dim(B::float_mul(grad.clone(), centred.clone()), 0);
    let grad_var = B::float_mul(B::float_mul(gamma.clone(), weighted.clone()), slope);
    let scale = B::float_mul(gamma, inv_std.clone());
    let grad_mean = B::float_neg(B::float_mul(scale.clone(), sum.clone()));

    let (of_all, positions) = sum_over::<B>([grad_mean.clone(), grad_var.clone()], positions, peers);
    let share = B::float_div_scalar(share, (positions as f32).into());
    let [constant, of_y] = of_all.map(|sum| B::float_mul(sum, share.clone()));
    let of_y = B::float_mul_scalar(of_y, 2.0.into());
    let grad_y = B::float_add(B::float_add(B::float_mul(grad, scale), B::float_mul(centred, of_y)), constant);
    NormalizeGradients {
        y: B::float_reshape(grad_y, shape),
        gamma: B::float_reshape(B::float_mul(weighted, inv_std), channels.clone()),
        beta: B::float_reshape(sum, channels),
        moments: B::float_cat(vec![grad_mean, grad_var], 0),
    }
}

/// Two rows `[1, C]` and a count, summed over the processes.
fn sum_over<B: Backend>(rows: [FloatTensor<B>; 2], count: usize, peers: &Peers) -> ([FloatTensor<B>; 2], usize) {
    if peers.is_alone() {
        return (rows, count);
    }
    let (shape, device) = (rows[0].shape(), rows[0].device());
    let sums = rows.map(|row| host::<B>(row));
    let (sums, count) = add_up(&sums, count, peers);
    (sums.map(|sums| B::float_from_data(TensorData::new(sums, shape.clone()), &device)), count)
}

/// Two lists and a count, summed over the processes in double precision.
pub(super) fn add_up(lists: &[Vec<f32>; 2], count: usize, peers: &Peers) -> ([Vec<f32>; 2], usize) {
    let len = lists[0].len();
    let mut sums: Vec<f64> = lists.iter().flatten().map(|&x| f64::from(x)).chain([count as f64]).collect();
    peers.sum_f64(&mut sums);
    let narrow = |part: &[f64]| part.iter().map(|&x| x as f32).collect();
    ([narrow(&sums[..len]), narrow(&sums[len..2 * len])], sums[2 * len] as usize)
}

/// `[B, H, W, C]` as `[B, H * W, G, C / G]`.
fn grouped<B: Backend>(x: FloatTensor<B>, groups: usize) -> FloatTensor<B> {
    let [batch, height, width, channels] = dims4::<B>(&x);
    B::float_reshape(x, Shape::from([batch, height * width, groups, channels / groups]))
}

/// The mean over the values of each image and group, `[B, 1, G, 1]`.
fn group_mean<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mean_dim(B::float_mean_dim(x, 1), 3)
}

/// `(x - mean) / std` and `1 / std`, both grouped.
fn group_normalized<B: Backend>(x: FloatTensor<B>, options: GroupNormOptions) -> [FloatTensor<B>; 2] {
    let x = grouped::<B>(x, options.groups);
    let centred = B::float_sub(x.clone(), group_mean::<B>(x));
    let var = group_mean::<B>(B::float_mul(centred.clone(), centred.clone()));
    let inv_std = B::float_recip(B::float_sqrt(B::float_add_scalar(var, (options.epsilon as f32).into())));
    [B::float_mul(centred, inv_std.clone()), inv_std]
}

pub(super) fn group_norm<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    options: GroupNormOptions,
) -> FloatTensor<B> {
    let shape = x.shape();
    let [normalized, _] = group_normalized::<B>(x, options);
    let normalized = B::float_reshape(normalized, shape);
    let out = B::float_add(B::float_mul(normalized, per_channel::<B>(gamma)), per_channel::<B>(beta));
    relu_if::<B>(options.relu, out)
}

/// With `h = gamma * g` and means over an image's group, `dL/dx = (h - mean h - x_hat * mean(h * x_hat)) / std`.
pub(super) fn group_norm_backward<B: Backend>(
    [x, gamma, beta]: [FloatTensor<B>; 3],
    grad: FloatTensor<B>,
    options: GroupNormOptions,
) -> GroupNormGradients<B> {
    let grad = if options.relu {
        let out = group_norm::<B>(x.clone(), gamma.clone(), beta, options);
        B::relu_backward(out, grad)
    } else {
        grad
    };
    let (shape, channels) = (x.shape(), gamma.shape());
    let [normalized, inv_std] = group_normalized::<B>(x, options);
    let flat = rows::<B>(B::float_reshape(normalized.clone(), shape.clone()));
    let of_beta = B::float_sum_dim(rows::<B>(grad.clone()), 0);
    let of_gamma = B::float_sum_dim(B::float_mul(rows::<B>(grad.clone()), flat), 0);
    let scaled = grouped::<B>(B::float_mul(grad, per_channel::<B>(gamma)), options.groups);
    let along = group_mean::<B>(B::float_mul(scaled.clone(), normalized.clone()));
    let centred = B::float_sub(scaled.clone(), group_mean::<B>(scaled));
    let of_x = B::float_mul(B::float_sub(centred, B::float_mul(normalized, along)), inv_std);
    GroupNormGradients {
        x: B::float_reshape(of_x, shape),
        gamma: B::float_reshape(of_gamma, channels.clone()),
        beta: B::float_reshape(of_beta, channels),
    }
}

pub(super) fn max_pool2d<B: Backend>(x: FloatTensor<B>, pool: PoolGeometry) -> (FloatTensor<B>, IntTensor<B>) {
    let [kernel, stride, padding] = [pool.kernel, pool.stride, pool.padding].map(|n| [n; 2]);
    let pooled = B::max_pool2d_with_indices(nchw::<B>(x), kernel, stride, padding, [1, 1], false, IntDType::I32);
    (nhwc::<B>(pooled.output), B::int_permute(pooled.indices, &TO_NHWC))
}

pub(super) fn max_pool2d_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    indices: IntTensor<B>,
    pool: PoolGeometry,
) -> FloatTensor<B> {
    let [kernel, stride, padding] = [pool.kernel, pool.stride, pool.padding].map(|n| [n; 2]);
    let indices = B::int_permute(indices, &TO_NCHW);
    let grad = nchw::<B>(grad);
    nhwc::<B>(
        B::max_pool2d_with_indices_backward(nchw::<B>(x), kernel, stride, padding, [1, 1], false, grad, indices).x_grad,
    )
}

fn nearest() -> InterpolateOptions {
    InterpolateOptions::new(InterpolateMode::Nearest)
}

pub(super) fn upsample_add<B: Backend>(coarse: FloatTensor<B>, fine: FloatTensor<B>) -> FloatTensor<B> {
    let [_, height, width, _] = dims4::<B>(&fine);
    B::float_add(fine, nhwc::<B>(B::interpolate(nchw::<B>(coarse), [height, width], nearest())))
}

pub(super) fn upsample_add_backward<B: Backend>(coarse: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let [_, height, width, _] = dims4::<B>(&grad);
    nhwc::<B>(B::interpolate_backward(nchw::<B>(coarse), nchw::<B>(grad), [height, width], nearest()))
}

/// The box geometry is data, so the crops are made on the host, whatever the backend.
pub(super) fn roi_align<B: Backend>(x: FloatTensor<B>, rois: &[Roi], config: &RoiAlignConfig) -> FloatTensor<B> {
    let device = x.device();
    let map = map_shape(dims4::<B>(&x));
    let mut crops = vec![0.0; config.output_len(&map, rois.len())];
    config.forward(&map, &host::<B>(x), rois, &mut crops);
    let shape = [rois.len(), config.output[0], config.output[1], map.channels];
    B::float_from_data(TensorData::new(crops, shape), &device)
}

pub(super) fn roi_align_backward<B: Backend>(
    grad: FloatTensor<B>,
    rois: &[Roi],
    config: &RoiAlignConfig,
    x_shape: [usize; 4],
) -> FloatTensor<B> {
    let device = grad.device();
    let map = map_shape(x_shape);
    let mut grad_x = vec![0.0; map.len()];
    config.backward(&map, &host::<B>(grad), rois, &mut grad_x);
    B::float_from_data(TensorData::new(grad_x, x_shape), &device)
}

/// As [`roi_align`], on the host.
pub(super) fn pyramid_roi_align<B: Backend>(
    maps: [FloatTensor<B>; 4],
    rois: &[PyramidRoi],
    aligns: [RoiAlignConfig; 4],
) -> FloatTensor<B> {
    let device = maps[0].device();
    let shapes = maps.each_ref().map(|map| map_shape(dims4::<B>(map)));
    let maps = maps.map(host::<B>);
    let level = |i: usize| PyramidLevel { align: aligns[i], map: shapes[i], x: &maps[i] };
    let crops = cbn_kernels::pyramid_roi_align(&[0, 1, 2, 3].map(level), rois);
    let [height, width] = aligns[0].output;
    B::float_from_data(TensorData::new(crops, [rois.len(), height, width, shapes[0].channels]), &device)
}

pub(super) fn pyramid_roi_align_backward<B: Backend>(
    grad: FloatTensor<B>,
    rois: &[PyramidRoi],
    align: RoiAlignConfig,
    level: usize,
    x_shape: [usize; 4],
) -> FloatTensor<B> {
    let device = grad.device();
    let map = map_shape(x_shape);
    let grad_x = cbn_kernels::pyramid_roi_align_backward(&align, &map, level, rois, &host::<B>(grad));
    B::float_from_data(TensorData::new(grad_x, x_shape), &device)
}

pub(super) fn map_shape([batch, height, width, channels]: [usize; 4]) -> MapShape {
    MapShape { batch, height, width, channels }
}

pub(super) fn dims2<B: Backend>(x: &FloatTensor<B>) -> [usize; 2] {
    x.shape().dims()
}

pub(super) fn dims4<B: Backend>(x: &FloatTensor<B>) -> [usize; 4] {
    x.shape().dims()
}

fn host<B: Backend>(x: FloatTensor<B>) -> Vec<f32> {
    let data: Result<TensorData, ExecutionError> = burn::tensor::read_sync(B::float_into_data(x));
    data.expect("the device finishes its work").try_into_vec().expect("feature maps are f32")
}

/// `[B, H, W, C]` as `[B * H * W, C]`.
fn rows<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, height, width, channels] = dims4::<B>(&x);
    B::float_reshape(x, Shape::from([batch * height * width, channels]))
}

/// `[C]` as `[1, C]`.
fn row<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let channels = x.shape()[0];
    B::float_reshape(x, Shape::from([1, channels]))
}

/// The rows of `[N, C]`, each `[1, C]`.
fn split_rows<B: Backend, const N: usize>(x: FloatTensor<B>) -> [FloatTensor<B>; N] {
    std::array::from_fn(|i| B::float_slice(x.clone(), &[Slice::from(i..i + 1), Slice::full()]))
}
