//! The CPU kernels against the reference, which runs on Burn's own operations.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Bytes, DType, Shape};

use super::{
    Addend, GroupNormOptions, KernelBackend, PackedWeightCache, PoolGeometry, Sample, SgdStep, SharedCache, descent,
    linear, reference, sampled,
};
use crate::ConvGeometry;
use crate::process_group::Peers;

/// Values in [-1, 1), a different series for every seed.
fn values<const D: usize>(seed: u64, shape: [usize; D]) -> FlexTensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = std::iter::repeat_with(next).take(shape.iter().product()).collect();
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(shape)), DType::F32)
}

/// Relative L2 distance. Both sides sum in f32 in different orders, Winograd loses up to 5e-6 of it: 2e-5 leaves room for
/// both and would show any wrong tap, border or factor.
fn assert_close(actual: FlexTensor, expected: FlexTensor, what: &str) {
    let shapes = [&actual, &expected].map(|x| x.layout().shape().clone());
    assert_eq!(shapes[0], shapes[1], "{what}");
    let [actual, expected] =
        [actual, expected].map(|x| x.to_contiguous().as_slice::<f32>().expect("contiguous f32").to_vec());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let distance = norm(&mut actual.iter().zip(&expected).map(|(a, e)| f64::from(a - e)));
    let scale = norm(&mut expected.iter().map(|&e| f64::from(e)));
    assert!(distance <= 2e-5 * scale, "{what}: {distance} of {scale}");
}

const GEOMETRIES: [([usize; 2], ConvGeometry); 5] = [
    ([3, 3], ConvGeometry { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 }),
    ([1, 1], ConvGeometry { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }),
    ([3, 3], ConvGeometry { stride: [2, 2], padding: [1, 1], dilation: [1, 1], groups: 2 }),
    ([3, 2], ConvGeometry { stride: [1, 2], padding: [2, 1], dilation: [2, 1], groups: 1 }),
    ([7, 7], ConvGeometry { stride: [2, 2], padding: [3, 3], dilation: [1, 1], groups: 1 }),
];

#[test]
fn convolutions_and_their_gradients_match_the_reference() {
    for (kernel, geometry) in GEOMETRIES {
        let (x_shape, weight_shape) = ([2, 13, 11, 6], [10, 6 / geometry.groups, kernel[0], kernel[1]]);
        let (x, weight) = (values(1, x_shape), values(2, weight_shape));
        let what = format!("{kernel:?} {geometry:?}");
        let y = Flex::channels_last_conv2d(x.clone(), weight.clone(), geometry);
        assert_close(y.clone(), reference::conv2d::<Flex>(x.clone(), weight.clone(), geometry), &what);
        let grad = values(3, reference::dims4::<Flex>(&y));
        assert_close(
            Flex::channels_last_conv2d_x_backward(weight.clone(), grad.clone(), x_shape, geometry),
            reference::conv2d_x_backward::<Flex>(weight, grad.clone(), x_shape, geometry),
            &format!("input gradient of {what}"),
        );
        assert_close(
            Flex::channels_last_conv2d_weight_backward(x.clone(), grad.clone(), weight_shape, geometry),
            reference::conv2d_weight_backward::<Flex>(x.clone(), grad, weight_shape, geometry),
            &format!("weight gradient of {what}"),
        );
        assert_close(
            Flex::channels_last_mean_patch(x.clone(), kernel, geometry),
            reference::mean_patch::<Flex>(x, kernel, geometry),
            &format!("mean patch of {what}"),
        );
    }
}

#[test]
fn weight_gradients_of_samples_match_the_reference() {
    let samples = [
        Sample::Images { first: 1, every: 2 },
        Sample::Strips { firsts: vec![0, 2, 3], rows: 2 },
        Sample::Strips { firsts: vec![1], rows: 4 },
    ];
    for (kernel, geometry) in GEOMETRIES {
        let (x_shape, weight_shape) = ([3, 13, 11, 6], [10, 6 / geometry.groups, kernel[0], kernel[1]]);
        let shape = geometry.shape(x_shape, weight_shape);
        let (x, grad) = (values(1, x_shape), values(2, [3, shape.out_height(), shape.out_width(), 10]));
        for sample in &samples {
            assert_close(
                Flex::channels_last_conv2d_weight_backward_of_sample(
                    x.clone(),
                    grad.clone(),
                    weight_shape,
                    geometry,
                    sample.clone(),
                ),
                sampled::reference::<Flex>(x.clone(), grad.clone(), weight_shape, geometry, sample),
                &format!("{sample:?} of {kernel:?} {geometry:?}"),
            );
        }
    }
}

#[test]
fn moments_and_normalisation_match_the_reference() {
    let (y, grad) = (values(1, [2, 7, 5, 9]), values(2, [2, 7, 5, 9]));
    assert_close(Flex::channels_last_moments(y.clone()), reference::moments::<Flex>(y.clone()), "moments");
    let (gamma, beta) = (values(3, [9]), values(4, [9]));
    let (moments, factors) = (values(5, [2, 9]), values(6, [3, 9]));
    let tensors = [y.clone(), gamma.clone(), beta.clone(), moments.clone(), factors.clone()];
    for relu in [false, true] {
        let [y, gamma, beta, moments, factors] = tensors.clone();
        assert_close(
            Flex::channels_last_normalize(y, gamma, beta, moments, factors, relu, Peers::default()),
            reference::normalize::<Flex>(tensors.clone(), relu),
            "normalised",
        );
        let [y, gamma, beta, moments, factors] = tensors.clone();
        let ours = Flex::channels_last_normalize_backward(
            y,
            gamma,
            beta,
            moments,
            factors,
            grad.clone(),
            relu,
            Peers::default(),
        );
        let expected = reference::normalize_backward::<Flex>(tensors.clone(), grad.clone(), relu, &Peers::default());
        assert_close(ours.y, expected.y, "gradient of y");
        assert_close(ours.gamma, expected.gamma, "gradient of gamma");
        assert_close(ours.beta, expected.beta, "gradient of beta");
        assert_close(ours.moments, expected.moments, "gradient of the moments");
    }
}

#[test]
fn group_norms_match_the_reference() {
    let (x, grad) = (values(1, [2, 7, 5, 12]), values(2, [2, 7, 5, 12]));
    let (gamma, beta) = (values(3, [12]), values(4, [12]));
    for (groups, relu) in [(1, false), (3, true), (12, false)] {
        let options = GroupNormOptions { groups, epsilon: 1e-3, relu };
        let what = format!("{options:?}");
        assert_close(
            Flex::channels_last_group_norm(x.clone(), gamma.clone(), beta.clone(), options),
            reference::group_norm::<Flex>(x.clone(), gamma.clone(), beta.clone(), options),
            &what,
        );
        let ours =
            Flex::channels_last_group_norm_backward(x.clone(), gamma.clone(), beta.clone(), grad.clone(), options);
        let expected =
            reference::group_norm_backward::<Flex>([x.clone(), gamma.clone(), beta.clone()], grad.clone(), options);
        assert_close(ours.x, expected.x, &format!("gradient of x, {what}"));
        assert_close(ours.gamma, expected.gamma, &format!("gradient of gamma, {what}"));
        assert_close(ours.beta, expected.beta, &format!("gradient of beta, {what}"));
    }
}

/// With and without a residual, a ReLU and a scale of 0, of which the block's result tells nothing.
#[test]
fn convolution_blocks_match_the_reference() {
    for (kernel, geometry) in GEOMETRIES {
        let (x, weight) = (values(1, [2, 13, 11, 6]), values(2, [10, 6 / geometry.groups, kernel[0], kernel[1]]));
        let dims = reference::dims4::<Flex>(&Flex::channels_last_conv2d(x.clone(), weight.clone(), geometry));
        for (relu, has_residual, has_zero) in [(true, true, false), (true, false, true), (false, true, true)] {
            let what = format!("{kernel:?} {geometry:?}, {relu} {has_residual} {has_zero}");
            let affine = values(3, [2, 10]);
            let mut scales = affine.as_slice::<f32>().expect("contiguous f32").to_vec();
            if has_zero {
                scales[4] = 0.0;
            }
            let affine = FlexTensor::new(Bytes::from_elems(scales), affine.layout().clone(), DType::F32);
            let residual = if has_residual { Addend::Map(values(4, dims)) } else { Addend::Nothing };
            let block =
                |run: fn(FlexTensor, FlexTensor, FlexTensor, Addend<Flex>, ConvGeometry, bool) -> FlexTensor| {
                    run(x.clone(), weight.clone(), affine.clone(), residual.clone(), geometry, relu)
                };
            let expected = block(reference::conv_block::<Flex>);
            let out = block(|x, weight, affine, residual, geometry, relu| {
                let cache = PackedWeightCache::default();
                let run = |cache| {
                    let tensors = (x.clone(), weight.clone(), affine.clone(), residual.clone());
                    Flex::channels_last_conv_block(tensors.0, tensors.1, tensors.2, tensors.3, geometry, relu, cache)
                };
                let outs = [SharedCache::default(), cache.share(), cache.share()].map(run);
                let [plain, packed, again] = outs.map(|out| out.as_slice::<f32>().expect("contiguous f32").to_vec());
                assert!(plain == packed && packed == again, "packing changes no bit");
                run(cache.share())
            });
            assert_close(out.clone(), expected, &what);
            let grad = values(5, dims);
            let ours = Flex::channels_last_conv_block_backward(
                x.clone(),
                weight.clone(),
                affine.clone(),
                out.clone(),
                grad.clone(),
                residual,
                geometry,
                relu,
            );
            let tensors = [x.clone(), weight.clone(), affine, out, grad];
            let expected = reference::conv_block_backward::<Flex>(tensors, geometry, relu);
            assert_close(ours.sum, expected.sum, &format!("gradient under the ReLU of {what}"));
            assert_close(ours.affine, expected.affine, &format!("gradient of scale and shift of {what}"));
        }
    }
}

/// A layer whose weight was replaced must not answer with the old one.
#[test]
fn a_packed_weight_belongs_to_one_tensor() {
    let cache = PackedWeightCache::default();
    let geometry = ConvGeometry::default();
    let (x, affine) = (values(1, [1, 4, 4, 3]), values(3, [2, 5]));
    for seed in [2, 3] {
        let weight = values(seed, [5, 3, 1, 1]);
        let out = Flex::channels_last_conv_block(
            x.clone(),
            weight.clone(),
            affine.clone(),
            Addend::Nothing,
            geometry,
            false,
            cache.share(),
        );
        let expected =
            reference::conv_block::<Flex>(x.clone(), weight, affine.clone(), Addend::Nothing, geometry, false);
        assert_close(out, expected, "the weight of this call");
    }
}

/// Few rows and many, the latter deeper than the parts that sums are made of, plain and packed.
#[test]
fn fully_connected_layers_match_the_reference() {
    for (rows, inputs, outputs, relu) in [(1, 3, 5, false), (7, 300, 70, true), (600, 130, 65, true)] {
        let [x, weight, bias] = [values(1, [rows, inputs]), values(2, [inputs, outputs]), values(3, [1, outputs])];
        let bias = bias.reshape(Shape::from([outputs]));
        let expected = linear::reference::<Flex>([x.clone(), weight.clone(), bias.clone()], relu);
        let cache = PackedWeightCache::default();
        for share in [SharedCache::default(), cache.share(), cache.share()] {
            let ours = Flex::channels_last_linear(x.clone(), weight.clone(), bias.clone(), relu, share);
            assert_close(ours, expected.clone(), &format!("{rows} rows of {inputs} to {outputs}"));
        }
        let other = values(4, [inputs, outputs]);
        let ours = Flex::channels_last_linear(x.clone(), other.clone(), bias.clone(), relu, cache.share());
        assert_close(ours, linear::reference::<Flex>([x, other, bias], relu), "the weight of this call");
    }
}

#[test]
fn row_dots_match_the_reference() {
    for (groups, rows, len) in [(1, 6, 37), (3, 6, 18), (6, 6, 300)] {
        let (a, b) = (values(1, [groups, len]), values(2, [rows, len]));
        let ours = Flex::channels_last_row_dots(a.clone(), b.clone());
        assert_close(ours, reference::row_dots::<Flex>(a, b), &format!("{rows} rows in {groups} groups"));
    }
}

#[test]
fn pooling_and_upsampling_match_the_reference() {
    let x = values(1, [2, 9, 8, 5]);
    let pool = PoolGeometry { kernel: 3, stride: 2, padding: 1 };
    let (y, indices) = Flex::channels_last_max_pool2d_with_indices(x.clone(), pool);
    let (expected, expected_indices) = reference::max_pool2d::<Flex>(x.clone(), pool);
    assert_close(y.clone(), expected, "maxima");
    let grad = values(2, reference::dims4::<Flex>(&y));
    assert_close(
        Flex::channels_last_max_pool2d_backward(x.clone(), grad.clone(), indices, pool),
        reference::max_pool2d_backward::<Flex>(x, grad, expected_indices, pool),
        "gradient of max-pooling",
    );

    // 5 to 9 rows is not a whole factor.
    let (coarse, fine) = (values(3, [2, 5, 4, 5]), values(4, [2, 9, 8, 5]));
    assert_close(
        Flex::channels_last_upsample_add(coarse.clone(), fine.clone()),
        reference::upsample_add::<Flex>(coarse.clone(), fine.clone()),
        "upsampled",
    );
    assert_close(
        Flex::channels_last_upsample_add_backward(coarse.clone(), fine.clone()),
        reference::upsample_add_backward::<Flex>(coarse, fine),
        "gradient of upsampling",
    );
}

#[test]
fn a_step_of_descent_matches_the_reference_and_leaves_shared_tensors_alone() {
    let step = SgdStep { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01, gradient_scale: 0.5 };
    let [weight, gradient, velocity] = [1, 2, 3].map(|seed| values(seed, [7, 5, 3]));
    // A view of a larger tensor, as a slice is.
    let wide = values(4, [9, 5, 3]);
    for weight in [weight, wide.narrow(0, 2, 7)] {
        let before = weight.to_contiguous().into_data();
        let moved = Flex::channels_last_sgd_step(weight.clone(), gradient.clone(), velocity.clone(), step);
        let expected = descent::reference::<Flex>(weight.clone(), gradient.clone(), velocity.clone(), step);
        for (actual, expected) in [moved.weight, moved.velocity].into_iter().zip(expected) {
            assert_close(actual, expected, "descent");
        }
        assert_eq!(weight.to_contiguous().into_data(), before);
    }
    let squares = Flex::float_sum(Flex::float_mul(gradient.clone(), gradient.clone()));
    assert_close(Flex::channels_last_sum_of_squares(gradient), squares, "sum of squares");
}
