//! The CPU backend: every operation on `cbn-kernels`.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Bytes, DType, Shape};
use cbn_kernels::{Clipped, ConvShape, Epilogue, GroupNorm, GroupShape, MapShape, MaxPool, PyramidLevel};

use super::reference::{add_up, dims2, dims4, map_shape};
use super::{
    Addend, BlockGradients, GroupNormGradients, GroupNormOptions, KernelBackend, Moved, NormalizeGradients,
    PoolGeometry, PyramidRoi, Roi, RoiAlignConfig, Sample, SgdStep, SharedCache, WeightGradientPair,
};
use crate::ConvGeometry;
use crate::process_group::Peers;

impl KernelBackend for Flex {
    fn channels_last_conv2d(x: FlexTensor, weight: FlexTensor, geometry: ConvGeometry) -> FlexTensor {
        let shape = geometry.shape(dims4::<Flex>(&x), dims4::<Flex>(&weight));
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let y = cbn_kernels::conv2d_forward(&shape, floats(&x), floats(&weight), &Epilogue::default());
        tensor(y, output_dims(&shape))
    }

    fn channels_last_conv_block(
        x: FlexTensor,
        weight: FlexTensor,
        affine: FlexTensor,
        residual: Addend<Flex>,
        geometry: ConvGeometry,
        relu: bool,
        packed: SharedCache,
    ) -> FlexTensor {
        let shape = geometry.shape(dims4::<Flex>(&x), dims4::<Flex>(&weight));
        let [x, affine] = [x, affine].map(|x| x.to_contiguous());
        let residual = contiguous(residual);
        let [scale, shift] = split_rows(&affine);
        let residual = residual.as_ref().map(floats);
        let epilogue = Epilogue { scale: Some(scale), shift: Some(shift), residual, relu };
        tensor(convolve(&shape, floats(&x), &weight, &packed, &epilogue), output_dims(&shape))
    }

    /// A pointwise convolution of one row of pixels.
    fn channels_last_linear(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        relu: bool,
        packed: SharedCache,
    ) -> FlexTensor {
        let ([rows, _], [inputs, outputs]) = (dims2::<Flex>(&x), dims2::<Flex>(&weight));
        let weight = weight.reshape(Shape::from([inputs, outputs, 1, 1])).transpose(0, 1);
        let shape = ConvGeometry::default().shape([1, 1, rows, inputs], [outputs, inputs, 1, 1]);
        let [x, bias] = [x, bias].map(|x| x.to_contiguous());
        let epilogue = Epilogue { shift: Some(floats(&bias)), relu, ..Epilogue::default() };
        tensor(convolve(&shape, floats(&x), &weight, &packed, &epilogue), [rows, outputs])
    }

    fn channels_last_conv_block_backward(
        x: FlexTensor,
        weight: FlexTensor,
        affine: FlexTensor,
        out: FlexTensor,
        grad: FlexTensor,
        residual: Addend<Flex>,
        geometry: ConvGeometry,
        relu: bool,
    ) -> BlockGradients<Flex> {
        let channels = dims4::<Flex>(&out)[3];
        let [affine, out, grad] = [affine, out, grad].map(|x| x.to_contiguous());
        let residual = contiguous(residual);
        let residual = residual.as_ref().map(floats);
        let (sum, sums) = if relu {
            let (masked, sums) = cbn_kernels::relu_block_gradient(floats(&out), residual, floats(&grad), channels);
            (tensor(masked, dims4::<Flex>(&out)), sums)
        } else {
            let sums = cbn_kernels::linear_block_gradient(floats(&out), residual, floats(&grad), channels);
            (grad, sums)
        };
        let [scale, shift] = split_rows(&affine);
        let mut of_affine = if scale.contains(&0.0) {
            // The result says nothing of the convolution there, so it is computed again.
            let y = Self::channels_last_conv2d(x, weight, geometry);
            cbn_kernels::norm_backward_sums(floats(&y), floats(&sum), &vec![0.0; channels], None).1
        } else {
            sums.scale(scale, shift)
        };
        of_affine.extend(sums.shift());
        BlockGradients { sum, affine: tensor(of_affine, [2, channels]) }
    }

    fn channels_last_conv2d_x_backward(
        weight: FlexTensor,
        grad: FlexTensor,
        x_shape: [usize; 4],
        geometry: ConvGeometry,
    ) -> FlexTensor {
        let shape = geometry.shape(x_shape, dims4::<Flex>(&weight));
        let (weight, grad) = (weight.to_contiguous(), grad.to_contiguous());
        let grad_x = cbn_kernels::conv2d_backward_input(&shape, floats(&grad), floats(&weight));
        tensor(grad_x, x_shape)
    }

    fn channels_last_conv2d_weight_backward(
        x: FlexTensor,
        grad: FlexTensor,
        weight_shape: [usize; 4],
        geometry: ConvGeometry,
    ) -> FlexTensor {
        let shape = geometry.shape(dims4::<Flex>(&x), weight_shape);
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        let mut grad_weight = vec![0.0; shape.weight_len()];
        cbn_kernels::conv2d_backward_weight(&shape, floats(&x), floats(&grad), &mut grad_weight);
        tensor(grad_weight, weight_shape)
    }

    fn channels_last_conv2d_weight_backward_of_sample(
        x: FlexTensor,
        grad: FlexTensor,
        weight_shape: [usize; 4],
        geometry: ConvGeometry,
        sample: Sample,
    ) -> FlexTensor {
        let shape = geometry.shape(dims4::<Flex>(&x), weight_shape);
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        let mut gradient = vec![0.0; shape.weight_len()];
        cbn_kernels::conv2d_backward_weight_of_sample(&shape, floats(&x), floats(&grad), &sample, &mut gradient);
        tensor(gradient, weight_shape)
    }

    fn channels_last_conv2d_weight_backward_pair(
        x: FlexTensor,
        grad: FlexTensor,
        output: FlexTensor,
        weight_shape: [usize; 4],
        geometry: ConvGeometry,
    ) -> WeightGradientPair<Flex> {
        let shape = geometry.shape(dims4::<Flex>(&x), weight_shape);
        let [x, grad, output] = [x, grad, output].map(|x| x.to_contiguous());
        let [mut of_loss, mut of_output] = [(); 2].map(|()| vec![0.0; shape.weight_len()]);
        let upstream = [floats(&grad), floats(&output)];
        cbn_kernels::conv2d_backward_weight_pair(&shape, floats(&x), upstream, [&mut of_loss, &mut of_output]);
        WeightGradientPair { of_loss: tensor(of_loss, weight_shape), of_output: tensor(of_output, weight_shape) }
    }

    fn channels_last_mean_patch(x: FlexTensor, kernel: [usize; 2], geometry: ConvGeometry) -> FlexTensor {
        let dims = dims4::<Flex>(&x);
        let patch_shape = [geometry.groups, dims[3] / geometry.groups, kernel[0], kernel[1]];
        let x = x.to_contiguous();
        tensor(cbn_kernels::mean_patch(&geometry.shape(dims, patch_shape), floats(&x)), patch_shape)
    }

    fn channels_last_moments(y: FlexTensor) -> FlexTensor {
        let channels = dims4::<Flex>(&y)[3];
        let y = y.to_contiguous();
        let (mut moments, var) = cbn_kernels::channel_moments(floats(&y), channels);
        moments.extend(var);
        tensor(moments, [2, channels])
    }

    fn channels_last_row_dots(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        let (groups, rows) = (dims2::<Flex>(&a)[0], dims2::<Flex>(&b)[0]);
        let (a, b) = (a.to_contiguous(), b.to_contiguous());
        tensor(cbn_kernels::row_dots(floats(&a), floats(&b), groups, rows), [rows])
    }

    fn channels_last_normalize(
        y: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        moments: FlexTensor,
        factors: FlexTensor,
        relu: bool,
        _peers: Peers,
    ) -> FlexTensor {
        let dims = dims4::<Flex>(&y);
        let [y, gamma, beta, moments, factors] = [y, gamma, beta, moments, factors].map(|x| x.to_contiguous());
        let [scale, shift] = scale_and_shift(&gamma, &beta, &moments, &factors);
        tensor(cbn_kernels::affine(floats(&y), &scale, &shift, relu), dims)
    }

    /// The formulas stand beside the reference.
    fn channels_last_normalize_backward(
        y: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        moments: FlexTensor,
        factors: FlexTensor,
        grad: FlexTensor,
        relu: bool,
        peers: Peers,
    ) -> NormalizeGradients<Flex> {
        let dims = dims4::<Flex>(&y);
        let channels = dims[3];
        let tensors = [y, gamma, beta, moments, factors, grad];
        let [y, gamma, beta, moments, factors, grad] = tensors.map(|x| x.to_contiguous());
        let [scale, shift] = scale_and_shift(&gamma, &beta, &moments, &factors);
        let clipped = relu.then_some(Clipped { scale: &scale, shift: &shift });
        let [mean, _] = split_rows(&moments);
        let [inv_std, slope, share] = split_rows(&factors);
        let gamma = floats(&gamma);
        let positions = dims[0] * dims[1] * dims[2];
        let (sum, weighted) = cbn_kernels::norm_backward_sums(floats(&y), floats(&grad), mean, clipped);

        let grad_mean: Vec<f32> = (0..channels).map(|c| -scale[c] * sum[c]).collect();
        let grad_var: Vec<f32> = (0..channels).map(|c| gamma[c] * weighted[c] * slope[c]).collect();
        let grad_gamma = (0..channels).map(|c| inv_std[c] * weighted[c]).collect();
        let grad_moments = [grad_mean.as_slice(), &grad_var].concat();
        let local = [grad_mean, grad_var];
        let ([of_mean, of_var], positions) =
            if peers.is_alone() { (local, positions) } else { add_up(&local, positions, &peers) };
        let positions = positions as f32;
        let of_y: Vec<f32> = (0..channels).map(|c| 2.0 * (share[c] / positions) * of_var[c]).collect();
        let constant: Vec<f32> = (0..channels).map(|c| share[c] / positions * of_mean[c]).collect();
        let factors: [&[f32]; 4] = [&scale, &of_y, mean, &constant];
        let grad_y = cbn_kernels::norm_backward_apply(floats(&y), floats(&grad), factors, clipped);
        NormalizeGradients {
            y: tensor(grad_y, dims),
            gamma: tensor(grad_gamma, [channels]),
            beta: tensor(sum, [channels]),
            moments: tensor(grad_moments, [2, channels]),
        }
    }

    fn channels_last_group_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        options: GroupNormOptions,
    ) -> FlexTensor {
        let dims = dims4::<Flex>(&x);
        let [x, gamma, beta] = [x, gamma, beta].map(|x| x.to_contiguous());
        let mut y = vec![0.0; floats(&x).len()];
        with_group_norm(&x, &gamma, &beta, options, |norm| norm.forward(floats(&x), &mut y));
        tensor(y, dims)
    }

    fn channels_last_group_norm_backward(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        grad: FlexTensor,
        options: GroupNormOptions,
    ) -> GroupNormGradients<Flex> {
        let dims = dims4::<Flex>(&x);
        let [x, gamma, beta, grad] = [x, gamma, beta, grad].map(|x| x.to_contiguous());
        let mut grad_x = vec![0.0; floats(&x).len()];
        let (of_gamma, of_beta) =
            with_group_norm(&x, &gamma, &beta, options, |norm| norm.backward(floats(&x), floats(&grad), &mut grad_x));
        GroupNormGradients {
            x: tensor(grad_x, dims),
            gamma: tensor(of_gamma, [dims[3]]),
            beta: tensor(of_beta, [dims[3]]),
        }
    }

    fn channels_last_max_pool2d_with_indices(
        x: FloatTensor<Self>,
        pool: PoolGeometry,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        let map = map_shape(dims4::<Flex>(&x));
        let pool = max_pool(pool);
        let output = pool.output(&map);
        let x = x.to_contiguous();
        let mut y = vec![0.0; output.len()];
        let mut argmax = vec![0; output.len()];
        pool.forward(&map, floats(&x), &mut y, &mut argmax);
        let shape = map_dims(&output);
        let argmax = FlexTensor::new(Bytes::from_elems(argmax), Layout::contiguous(Shape::from(shape)), DType::U32);
        (tensor(y, shape), argmax)
    }

    fn channels_last_max_pool2d_backward(
        x: FlexTensor,
        grad: FlexTensor,
        indices: IntTensor<Self>,
        pool: PoolGeometry,
    ) -> FlexTensor {
        let map = map_shape(dims4::<Flex>(&x));
        let grad = grad.to_contiguous();
        let argmax = indices.as_slice::<u32>().expect("the forward pass made contiguous u32 indices");
        let mut grad_x = vec![0.0; map.len()];
        max_pool(pool).backward(&map, floats(&grad), argmax, &mut grad_x);
        tensor(grad_x, map_dims(&map))
    }

    fn channels_last_upsample_add(coarse: FlexTensor, fine: FlexTensor) -> FlexTensor {
        let (small, large) = (map_shape(dims4::<Flex>(&coarse)), map_shape(dims4::<Flex>(&fine)));
        let (coarse, fine) = (coarse.to_contiguous(), fine.to_contiguous());
        let sum = cbn_kernels::upsample_add(&small, floats(&coarse), &large, floats(&fine));
        tensor(sum, map_dims(&large))
    }

    fn channels_last_upsample_add_backward(coarse: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (small, large) = (map_shape(dims4::<Flex>(&coarse)), map_shape(dims4::<Flex>(&grad)));
        let grad = grad.to_contiguous();
        let mut grad_coarse = vec![0.0; small.len()];
        cbn_kernels::upsample_add_backward(&small, &large, floats(&grad), &mut grad_coarse);
        tensor(grad_coarse, map_dims(&small))
    }

    fn channels_last_roi_align(x: FlexTensor, rois: Vec<Roi>, config: RoiAlignConfig) -> FlexTensor {
        let map = map_shape(dims4::<Flex>(&x));
        let x = x.to_contiguous();
        let mut crops = vec![0.0; config.output_len(&map, rois.len())];
        config.forward(&map, floats(&x), &rois, &mut crops);
        tensor(crops, [rois.len(), config.output[0], config.output[1], map.channels])
    }

    fn channels_last_roi_align_backward(
        grad: FlexTensor,
        rois: Vec<Roi>,
        config: RoiAlignConfig,
        x_shape: [usize; 4],
    ) -> FlexTensor {
        let map = map_shape(x_shape);
        let grad = grad.to_contiguous();
        let mut grad_x = vec![0.0; map.len()];
        config.backward(&map, floats(&grad), &rois, &mut grad_x);
        tensor(grad_x, x_shape)
    }

    fn channels_last_pyramid_roi_align(
        p2: FlexTensor,
        p3: FlexTensor,
        p4: FlexTensor,
        p5: FlexTensor,
        rois: Vec<PyramidRoi>,
        aligns: [RoiAlignConfig; 4],
    ) -> FlexTensor {
        let maps = [p2, p3, p4, p5].map(|map| map.to_contiguous());
        let shapes = maps.each_ref().map(|map| map_shape(dims4::<Flex>(map)));
        let level = |i: usize| PyramidLevel { align: aligns[i], map: shapes[i], x: floats(&maps[i]) };
        let crops = cbn_kernels::pyramid_roi_align(&[0, 1, 2, 3].map(level), &rois);
        let [height, width] = aligns[0].output;
        tensor(crops, [rois.len(), height, width, shapes[0].channels])
    }

    fn channels_last_pyramid_roi_align_backward(
        grad: FlexTensor,
        rois: Vec<PyramidRoi>,
        align: RoiAlignConfig,
        level: usize,
        x_shape: [usize; 4],
    ) -> FlexTensor {
        let grad = grad.to_contiguous();
        let map = map_shape(x_shape);
        tensor(cbn_kernels::pyramid_roi_align_backward(&align, &map, level, &rois, floats(&grad)), x_shape)
    }

    fn channels_last_sum_of_squares(x: FlexTensor) -> FlexTensor {
        tensor(vec![cbn_kernels::sum_of_squares(floats(&x.to_contiguous())) as f32], [1])
    }

    fn channels_last_sgd_step(
        weight: FlexTensor,
        gradient: FlexTensor,
        velocity: FlexTensor,
        step: SgdStep,
    ) -> Moved<Flex> {
        let [mut weight, gradient, mut velocity] = [weight, gradient, velocity].map(|x| x.to_contiguous());
        step.apply(floats_mut(&mut weight), floats(&gradient), floats_mut(&mut velocity));
        Moved { weight, velocity }
    }
}

/// The convolution with a weight of any layout, packed where there is a place to keep it.
fn convolve(
    shape: &ConvShape,
    x: &[f32],
    weight: &FlexTensor,
    packed: &SharedCache,
    epilogue: &Epilogue<'_>,
) -> Vec<f32> {
    match packed.get(weight, shape.weight_shape()) {
        Some(packed) => cbn_kernels::conv2d_forward_packed(shape, x, &packed, epilogue),
        None => cbn_kernels::conv2d_forward(shape, x, floats(&weight.to_contiguous()), epilogue),
    }
}

fn max_pool(pool: PoolGeometry) -> MaxPool {
    MaxPool { kernel: [pool.kernel; 2], stride: [pool.stride; 2], padding: [pool.padding; 2] }
}

fn map_dims(map: &MapShape) -> [usize; 4] {
    [map.batch, map.height, map.width, map.channels]
}

/// `gamma * inv_std` and `beta - mean * gamma * inv_std`.
fn scale_and_shift(gamma: &FlexTensor, beta: &FlexTensor, moments: &FlexTensor, factors: &FlexTensor) -> [Vec<f32>; 2] {
    let [mean, _] = split_rows(moments);
    let [inv_std, _, _] = split_rows(factors);
    let scale: Vec<f32> = floats(gamma).iter().zip(inv_std).map(|(gamma, inv_std)| gamma * inv_std).collect();
    let shift = floats(beta).iter().zip(mean).zip(&scale).map(|((beta, mean), scale)| beta - mean * scale).collect();
    [scale, shift]
}

/// The group norm of `x`, moments computed.
fn with_group_norm<R>(
    x: &FlexTensor,
    gamma: &FlexTensor,
    beta: &FlexTensor,
    options: GroupNormOptions,
    work: impl FnOnce(&GroupNorm<'_>) -> R,
) -> R {
    let [batch, height, width, channels] = dims4::<Flex>(x);
    let shape = GroupShape { batch, pixels: height * width, channels, groups: options.groups };
    let (mean, var) = cbn_kernels::group_moments(floats(x), &shape);
    let inv_std: Vec<f32> = var.iter().map(|var| (1.0 / (f64::from(*var) + options.epsilon).sqrt()) as f32).collect();
    let (gamma, beta) = (floats(gamma), floats(beta));
    work(&GroupNorm { shape, mean: &mean, inv_std: &inv_std, gamma, beta, relu: options.relu })
}

fn contiguous(addend: Addend<Flex>) -> Option<FlexTensor> {
    match addend {
        Addend::Nothing => None,
        Addend::Map(map) => Some(map.to_contiguous()),
    }
}

fn output_dims(shape: &ConvShape) -> [usize; 4] {
    [shape.batch, shape.out_height(), shape.out_width(), shape.out_channels]
}

/// The values of a contiguous tensor.
fn floats(x: &FlexTensor) -> &[f32] {
    x.as_slice().unwrap_or_else(|| panic!("a contiguous f32 tensor, found {:?} of {:?}", x.dtype(), x.shape()))
}

/// The same to be written over: a copy of them if others hold the tensor too.
fn floats_mut(x: &mut FlexTensor) -> &mut [f32] {
    let (start, end) = x.layout().contiguous_offsets().expect("a contiguous tensor");
    &mut x.storage_mut()[start..end]
}

/// The rows of `[N, C]`.
fn split_rows<const N: usize>(x: &FlexTensor) -> [&[f32]; N] {
    let values = floats(x);
    let channels = values.len() / N;
    std::array::from_fn(|i| &values[i * channels..][..channels])
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(shape)), DType::F32)
}
