//! Convolutions against the definition in `f64`.

use cbn_kernels::conv::{Algorithm, Method, reference};
use cbn_kernels::{ConvShape, Epilogue, Isa, PackedWeight, Sample, conv2d_backward_weight_of_sample};
use cbn_kernels::{conv2d_backward_input, conv2d_forward, conv2d_forward_packed};
use proptest::prelude::*;
use rayon::prelude::*;

/// Sums of up to some thousand products in blocks: measured 1e-7 to 4e-7.
const GEMM_TOLERANCE: f64 = 1e-6;
/// The transforms multiply by up to 5 * 5 on the way in and 8 * 8 on the way out, with large tiles 32 * 32, and cancel:
/// measured 1e-6 to 5e-6, with large tiles up to 9e-6 at 512 channels.
const WINOGRAD_TOLERANCE: f64 = 1e-5;

/// No factor is above 1 and nothing cancels but in the parts of complex products: measured 1e-7 to 5e-7.
const FOURIER_TOLERANCE: f64 = 1e-6;

/// Numbers in -1..1 from a formula.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// The L2 norm of the error, relative to `size`.
fn relative_l2(values: &[f32], truth: &[f64], size: f64) -> f64 {
    let error: f64 = values.iter().zip(truth).map(|(&value, truth)| (f64::from(value) - truth).powi(2)).sum();
    if error == 0.0 { 0.0 } else { error.sqrt() / size }
}

fn l2(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn squares(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value * value).collect()
}

fn methods(shape: &ConvShape) -> Vec<Method> {
    let isas = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    isas.flat_map(|isa| Algorithm::ALL.map(|algorithm| Method { algorithm, isa }))
        .filter(|method| method.algorithm.is_applicable(shape))
        .collect()
}

/// Forward and both gradients by one method.
fn run(method: Method, shape: &ConvShape) -> [Vec<f32>; 3] {
    let (x, weight) = (values(shape.input_len(), 1), values(shape.weight_len(), 2));
    let grad_y = values(shape.output_len(), 3);
    // Not zero before: the kernels must overwrite.
    let mut y = vec![7.0; shape.output_len()];
    let mut grad_x = vec![7.0; shape.input_len()];
    let mut grad_weight = vec![7.0; shape.weight_len()];
    method.forward(shape, &x, &weight, &Epilogue::default(), &mut y);
    method.backward_input(shape, &grad_y, &weight, &mut grad_x);
    method.backward_weight(shape, &x, &grad_y, &mut grad_weight);
    [y, grad_x, grad_weight]
}

fn check(shape: &ConvShape) {
    let (x, weight) = (widen(&values(shape.input_len(), 1)), widen(&values(shape.weight_len(), 2)));
    let grad_y = widen(&values(shape.output_len(), 3));
    let truth = [
        reference::conv2d_forward(shape, &x, &weight),
        reference::conv2d_backward_input(shape, &grad_y, &weight),
        reference::conv2d_backward_weight(shape, &x, &grad_y),
    ];
    // What the norm of a sum of products of independent signs is on average. The norm itself can be next to nothing where
    // there is one result and its terms cancel.
    let (x, weight, grad_y) = (squares(&x), squares(&weight), squares(&grad_y));
    let sizes = [
        reference::conv2d_forward(shape, &x, &weight),
        reference::conv2d_backward_input(shape, &grad_y, &weight),
        reference::conv2d_backward_weight(shape, &x, &grad_y),
    ];
    let sizes = sizes.map(|squares| squares.iter().sum::<f64>().sqrt());
    for method in methods(shape) {
        let tolerance = match method.algorithm {
            Algorithm::Gemm | Algorithm::Depthwise => GEMM_TOLERANCE,
            Algorithm::Fourier => FOURIER_TOLERANCE,
            Algorithm::Winograd(_) | Algorithm::MixedWinograd | Algorithm::StridedWinograd => WINOGRAD_TOLERANCE,
        };
        let results = run(method, shape);
        for (i, what) in ["y", "grad_x", "grad_weight"].into_iter().enumerate() {
            let error = relative_l2(&results[i], &truth[i], sizes[i]);
            assert!(error <= tolerance, "{what} of {shape:?} by {method:?}: relative error {error:e}");
        }
    }
}

fn square(channels: [usize; 2], size: usize, kernel: usize, stride: usize) -> ConvShape {
    ConvShape {
        batch: 2,
        in_channels: channels[0],
        in_height: size,
        in_width: size + 1,
        out_channels: channels[1],
        kernel: [kernel, kernel],
        stride: [stride, stride],
        padding: [kernel / 2, kernel / 2],
        dilation: [1, 1],
        groups: 1,
    }
}

/// Maps of regions, which the Fourier transform takes whole.
fn regions(batch: usize, channels: [usize; 2], [in_height, in_width]: [usize; 2]) -> ConvShape {
    ConvShape { batch, in_height, in_width, ..square(channels, 7, 3, 1) }
}

/// So few tiles for so large a weight that it is transformed part by part.
fn few_tiles(padding: [usize; 2]) -> ConvShape {
    ConvShape { padding, ..square([330, 290], 10, 3, 1) }
}

/// Whether it computes tiles, or maps, at a time, so that all of their outputs read all of their inputs.
fn is_tiled(algorithm: Algorithm) -> bool {
    !matches!(algorithm, Algorithm::Gemm | Algorithm::Depthwise)
}

#[test]
fn maps_of_regions_agree_with_the_definition() {
    check(&regions(3, [256, 256], [7, 7]));
    check(&regions(70, [65, 130], [7, 7]));
    check(&regions(2, [512, 20], [7, 5]));
    check(&regions(2, [3, 1], [1, 6]));
    check(&regions(75, [16, 33], [14, 14]));
}

#[test]
fn detector_shapes_agree_with_the_definition() {
    check(&square([3, 64], 33, 7, 2));
    check(&square([64, 64], 33, 7, 2));
    check(&square([64, 64], 17, 3, 1));
    check(&square([128, 96], 14, 3, 2));
    check(&square([256, 12], 9, 1, 1));
    check(&square([64, 130], 12, 1, 2));
    check(&square([130, 65], 7, 3, 1));
    check(&square([512, 64], 6, 3, 1));
    check(&square([512, 16], 24, 3, 1));
}

#[test]
fn few_tiles_of_many_channels_agree_with_the_definition() {
    check(&few_tiles([1, 1]));
    check(&few_tiles([2, 0]));
}

/// Their data gradients join the phases of the stride in one product; sizes that the stride does not divide leave parts of blocks.
#[test]
fn few_channels_with_strides_agree_with_the_definition() {
    for (channels, size) in [(1, 12), (2, 13), (3, 14), (4, 15)] {
        check(&square([channels, 17], size, 7, 2));
        check(&ConvShape { stride: [3, 2], padding: [1, 2], ..square([channels, 17], size, 5, 2) });
        check(&ConvShape { stride: [2, 1], dilation: [1, 2], ..square([channels, 17], size, 3, 2) });
    }
}

#[test]
fn groups_and_depthwise_agree_with_the_definition() {
    for groups in [2, 4, 32] {
        check(&ConvShape { groups, ..square([64, 64], 9, 3, 1) });
        check(&ConvShape { groups, ..square([64, 32], 9, 3, 2) });
    }
    for channels in [1, 7, 65, 83, 128] {
        check(&ConvShape { groups: channels, ..square([channels, channels], 8, 3, 1) });
        check(&ConvShape { groups: channels, dilation: [2, 1], ..square([channels, channels], 11, 5, 2) });
    }
}

#[test]
fn one_pixel_maps_and_empty_batches_work() {
    check(&square([65, 7], 1, 3, 1));
    check(&ConvShape { in_width: 1, ..square([7, 3], 1, 3, 2) });
    check(&ConvShape { batch: 0, ..square([16, 16], 5, 3, 1) });
    // The kernel does not fit: the output is empty and the gradients are zero.
    check(&ConvShape { padding: [0, 0], ..square([4, 4], 2, 3, 1) });
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let depthwise = ConvShape { groups: 83, ..square([83, 83], 37, 3, 2) };
    let stem = square([3, 70], 83, 7, 2);
    for shape in [
        square([32, 70], 37, 3, 1),
        square([32, 70], 37, 3, 2),
        square([70, 32], 61, 1, 1),
        stem,
        depthwise,
        regions(131, [32, 70], [7, 7]),
        few_tiles([1, 1]),
    ] {
        for method in methods(&shape) {
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| run(method, &shape))
            };
            let one = on(1);
            for threads in 2..=4 {
                assert!(one == on(threads), "{shape:?} by {method:?} on {threads} threads");
            }
        }
    }
}

/// A stem gives an image the same features alone as in a batch, so that processes may share the images of a step.
#[test]
fn a_stem_has_the_same_bits_in_any_batch() {
    for size in [33, 63, 64, 200] {
        let shape = square([3, 64], size, 7, 2);
        let (x, weight) = (values(shape.input_len(), 1), values(shape.weight_len(), 2));
        let both = conv2d_forward(&shape, &x, &weight, &Epilogue::default());
        let alone = ConvShape { batch: 1, ..shape };
        let first = conv2d_forward(&alone, &x[..alone.input_len()], &weight, &Epilogue::default());
        assert!(first == both[..first.len()], "{size}");
    }
}

#[test]
fn epilogue_scales_shifts_adds_and_clips() {
    let depthwise = ConvShape { groups: 83, ..square([83, 83], 9, 3, 1) };
    let regions = regions(3, [16, 70], [7, 7]);
    for shape in [square([16, 70], 9, 3, 1), square([5, 70], 9, 1, 2), square([3, 70], 19, 7, 2), depthwise, regions] {
        let (x, weight) = (values(shape.input_len(), 1), values(shape.weight_len(), 2));
        let (scale, shift) = (values(shape.out_channels, 4), values(shape.out_channels, 5));
        let residual = values(shape.output_len(), 6);
        let mut truth = reference::conv2d_forward(&shape, &widen(&x), &widen(&weight));
        for (i, y) in truth.iter_mut().enumerate() {
            let k = i % shape.out_channels;
            *y = (*y * f64::from(scale[k]) + f64::from(shift[k]) + f64::from(residual[i])).max(0.0);
        }
        let epilogue = Epilogue { scale: Some(&scale), shift: Some(&shift), residual: Some(&residual), relu: true };
        for method in methods(&shape) {
            let mut y = vec![7.0; shape.output_len()];
            method.forward(&shape, &x, &weight, &epilogue, &mut y);
            let error = relative_l2(&y, &truth, l2(&truth));
            assert!(error <= WINOGRAD_TOLERANCE, "{shape:?} by {method:?}: relative error {error:e}");
        }
    }
}

/// Outputs that start on a cache line and have 32 MiB are written past the caches, others are not.
#[test]
fn large_outputs_have_the_same_bits_wherever_they_lie() {
    for kernel in [1, 3] {
        check_streamed(&ConvShape { batch: 1, in_width: 1025, ..square([3, 16], 513, kernel, 1) });
    }
    check_streamed(&ConvShape { batch: 1, ..square([1, 64], 725, 7, 2) });
}

fn check_streamed(shape: &ConvShape) {
    let (x, weight) = (values(shape.input_len(), 1), values(shape.weight_len(), 2));
    let shift = values(shape.out_channels, 5);
    let epilogue = Epilogue { shift: Some(&shift), relu: true, ..Epilogue::default() };
    let mut memory = vec![7.0; shape.output_len() + 32];
    let aligned = memory.as_ptr().align_offset(64);
    for method in methods(shape) {
        let mut at = |start: usize| {
            let y = &mut memory[start..start + shape.output_len()];
            y.fill(7.0);
            method.forward(shape, &x, &weight, &epilogue, y);
            y.to_vec()
        };
        assert!(at(aligned) == at(aligned + 1), "{shape:?} by {method:?}");
    }
}

/// One value that is no number: every output that reads it shows that, others keep their bits, but for Winograd's tiles.
#[test]
fn values_that_are_no_numbers_are_not_lost() {
    let depthwise = ConvShape { groups: 5, ..square([5, 5], 23, 3, 1) };
    let regions = regions(5, [5, 7], [7, 7]);
    for shape in [square([5, 7], 23, 3, 1), square([3, 17], 23, 7, 2), square([17, 7], 23, 1, 1), depthwise, regions] {
        let (clean, weight) = (values(shape.input_len(), 1), values(shape.weight_len(), 2));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = clean.clone();
            x[(11 * shape.in_width + 12) * shape.in_channels] = value;
            let truth = reference::conv2d_forward(&shape, &widen(&x), &widen(&weight));
            for method in methods(&shape) {
                let [before, after] = [&clean, &x].map(|x| {
                    let mut y = vec![7.0; shape.output_len()];
                    method.forward(&shape, x, &weight, &Epilogue::default(), &mut y);
                    y
                });
                let mut only_in_tiles = 0;
                for ((before, after), truth) in before.iter().zip(&after).zip(&truth) {
                    match method.algorithm {
                        algorithm if is_tiled(algorithm) && truth.is_finite() => {
                            only_in_tiles += usize::from(before.to_bits() != after.to_bits());
                        }
                        _ if truth.is_finite() => {
                            assert_eq!(before.to_bits(), after.to_bits(), "{shape:?} by {method:?}")
                        }
                        algorithm if is_tiled(algorithm) => {
                            assert!(!after.is_finite(), "{shape:?} by {method:?}: {after} for {truth}");
                        }
                        _ => assert!(
                            f64::from(*after) == *truth || after.is_nan() && truth.is_nan(),
                            "{method:?}: {after}"
                        ),
                    }
                }
                // Two by two tiles at most have inputs in common, of 6 x 6 outputs at most.
                assert!(only_in_tiles <= 4 * 36 * shape.out_channels, "{shape:?} by {method:?}: {only_in_tiles}");
            }
        }
    }
}

/// One packed weight for all methods: its values do not depend on them.
fn check_packed(shape: &ConvShape) {
    let (x, weight) = (values(shape.input_len(), 1), values(shape.weight_len(), 2));
    let (scale, residual) = (values(shape.out_channels, 4), values(shape.output_len(), 6));
    let epilogue = Epilogue { scale: Some(&scale), residual: Some(&residual), ..Epilogue::default() };
    let packed = PackedWeight::new(shape.weight_shape(), &weight);
    let mut y = vec![7.0; shape.output_len()];
    let mut y_packed = vec![8.0; shape.output_len()];
    for method in methods(shape) {
        method.forward(shape, &x, &weight, &epilogue, &mut y);
        method.forward_packed(shape, &x, &packed, &epilogue, &mut y_packed);
        assert!(y == y_packed, "{shape:?} by {method:?}");
    }
    // The functions that allocate write the same everywhere.
    Method::best(shape).forward(shape, &x, &weight, &epilogue, &mut y);
    assert!(y == conv2d_forward(shape, &x, &weight, &epilogue), "{shape:?}");
    assert!(y == conv2d_forward_packed(shape, &x, &packed, &epilogue), "{shape:?}");
    let grad_y = values(shape.output_len(), 3);
    let mut grad_x = vec![7.0; shape.input_len()];
    Method::best(shape).backward_input(shape, &grad_y, &weight, &mut grad_x);
    assert!(grad_x == conv2d_backward_input(shape, &grad_y, &weight), "{shape:?}");
}

#[test]
fn a_packed_weight_gives_the_same_bits() {
    check_packed(&regions(3, [65, 70], [7, 7]));
    check_packed(&square([3, 64], 33, 7, 2));
    check_packed(&square([16, 130], 29, 3, 1));
    check_packed(&square([65, 130], 5, 3, 1));
    check_packed(&few_tiles([1, 1]));
    check_packed(&square([64, 12], 40, 1, 1));
    check_packed(&ConvShape { groups: 2, ..square([32, 150], 9, 3, 2) });
    check_packed(&ConvShape { groups: 7, ..square([7, 7], 8, 3, 1) });
    check_packed(&ConvShape { batch: 0, ..square([16, 16], 5, 3, 1) });
}

#[test]
fn a_packed_weight_serves_many_threads_at_once() {
    let shape = square([64, 64], 29, 3, 1);
    let (x, weight) = (values(shape.input_len(), 1), values(shape.weight_len(), 2));
    let packed = PackedWeight::new(shape.weight_shape(), &weight);
    let forward = |_| conv2d_forward_packed(&shape, &x, &packed, &Epilogue::default());
    let results: Vec<Vec<f32>> = (0..16).into_par_iter().map(forward).collect();
    assert!(results.iter().all(|y| *y == results[0]));
}

#[test]
#[should_panic(expected = "packed for the convolution")]
fn a_weight_packed_for_other_channels_panics() {
    let shape = square([4, 4], 3, 1, 1);
    let packed = PackedWeight::new(square([2, 8], 3, 1, 1).weight_shape(), &[0.0; 16]);
    conv2d_forward_packed(&shape, &[0.0; 96], &packed, &Epilogue::default());
}

fn check_pair(shape: &ConvShape) {
    let x = values(shape.input_len(), 1);
    let grad_ys = [3, 4].map(|seed| values(shape.output_len(), seed));
    for method in methods(shape) {
        let mut alone = [7.0, 8.0].map(|value| vec![value; shape.weight_len()]);
        let mut together = alone.clone();
        for (grad_y, grad_weight) in grad_ys.iter().zip(&mut alone) {
            method.backward_weight(shape, &x, grad_y, grad_weight);
        }
        method.backward_weight_pair(shape, &x, [&grad_ys[0], &grad_ys[1]], together.each_mut().map(Vec::as_mut_slice));
        assert!(alone == together, "{shape:?} by {method:?}");
    }
}

#[test]
fn two_weight_gradients_have_the_bits_of_two_calls() {
    check_pair(&square([65, 130], 29, 3, 1));
    check_pair(&regions(70, [65, 130], [7, 7]));
    check_pair(&regions(70, [65, 70], [14, 14]));
    check_pair(&few_tiles([1, 1]));
    check_pair(&square([3, 64], 33, 7, 2));
    check_pair(&square([512, 70], 23, 1, 1));
    check_pair(&ConvShape { groups: 2, ..square([32, 150], 19, 3, 2) });
    check_pair(&ConvShape { groups: 7, ..square([7, 7], 8, 3, 1) });
    check_pair(&ConvShape { batch: 0, ..square([16, 16], 5, 3, 1) });
}

/// The gradient of the whole convolution where the upstream gradient is zero outside the sample: times how often a position is in it.
fn check_sample(shape: &ConvShape, sample: &Sample) {
    let (x, grad_y) = (values(shape.input_len(), 1), values(shape.output_len(), 3));
    let (height, row_len) = (shape.out_height(), shape.out_width() * shape.out_channels);
    let mut weighted = widen(&grad_y);
    for (row, values) in weighted.chunks_exact_mut(row_len).enumerate() {
        let (image, y) = (row / height, row % height);
        let times = match sample {
            Sample::Images { first, every } => usize::from(image >= *first && (image - first) % every == 0),
            Sample::Strips { firsts, rows } => {
                firsts.iter().filter(|&&first| (first..first + rows).contains(&y)).count()
            }
        };
        values.iter_mut().for_each(|value| *value *= times as f64);
    }
    let truth = reference::conv2d_backward_weight(shape, &widen(&x), &weighted);
    let on = |threads| {
        let mut grad_weight = vec![7.0; shape.weight_len()];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("some threads");
        pool.install(|| conv2d_backward_weight_of_sample(shape, &x, &grad_y, sample, &mut grad_weight));
        grad_weight
    };
    let one = on(1);
    assert!((2..=4).all(|threads| on(threads) == one), "{sample:?} of {shape:?}: threads change bits");
    let error = relative_l2(&one, &truth, l2(&truth));
    assert!(error <= WINOGRAD_TOLERANCE, "{sample:?} of {shape:?}: relative error {error:e}");
}

#[test]
fn weight_gradients_of_samples_agree_with_the_definition() {
    let strips = |firsts: &[usize], rows| Sample::Strips { firsts: firsts.to_vec(), rows };
    // Winograd, read in place: strips, which may overlap, small tiles and large ones of images.
    let large = ConvShape { batch: 4, ..square([96, 96], 18, 3, 1) };
    check_sample(&large, &strips(&[0, 8, 14, 11], 4));
    check_sample(&ConvShape { padding: [2, 0], ..large }, &strips(&[3, 9, 16], 4));
    check_sample(&large, &Sample::Images { first: 1, every: 2 });
    check_sample(&ConvShape { batch: 18, ..large }, &Sample::Images { first: 1, every: 2 });
    check_sample(&large, &strips(&[0, 12, 8], 6));
    check_sample(&ConvShape { batch: 200, in_height: 7, in_width: 7, ..large }, &Sample::Images { first: 1, every: 3 });
    check_sample(&ConvShape { batch: 400, in_height: 7, in_width: 7, ..large }, &Sample::Images { first: 1, every: 3 });
    check_sample(
        &ConvShape { batch: 200, in_height: 14, in_width: 13, ..large },
        &Sample::Images { first: 2, every: 3 },
    );
    // Copied: strips of other heights, other algorithms.
    check_sample(&large, &strips(&[0, 12], 5));
    for (kernel, stride) in [(1, 1), (3, 1), (5, 2)] {
        let small = ConvShape { groups: 2, dilation: [2, 1], batch: 5, ..square([8, 6], 21, kernel, stride) };
        check_sample(&small, &strips(&[0, 5, 6], 2));
        check_sample(&small, &Sample::Images { first: 2, every: 3 });
        check_sample(&small, &Sample::Images { first: 4, every: 5 });
    }
    check_sample(&large, &strips(&[], 4));
    check_sample(&large, &Sample::Images { first: 7, every: 8 });
}

#[test]
#[should_panic(expected = "4 rows from each of [6] on, of 9")]
fn a_strip_that_leaves_the_map_panics() {
    let shape = square([2, 2], 9, 3, 1);
    let sample = Sample::Strips { firsts: vec![6], rows: 4 };
    let (x, grad_y) = (values(shape.input_len(), 1), values(shape.output_len(), 3));
    conv2d_backward_weight_of_sample(&shape, &x, &grad_y, &sample, &mut [0.0; 36]);
}

fn shapes() -> impl Strategy<Value = ConvShape> {
    let channels = prop::sample::select(vec![1_usize, 3, 7, 16, 65]);
    let sizes = (1..=2_usize, 1..=13_usize, 1..=13_usize);
    let geometry = (1..=4_usize, 1..=4_usize, 1..=3_usize, 1..=3_usize, 0..=2_usize, 0..=2_usize, 1..=2_usize);
    (sizes, channels.clone(), channels, geometry, 1..=3_usize).prop_map(|(sizes, c, k, geometry, groups)| ConvShape {
        batch: sizes.0,
        in_channels: c * groups,
        in_height: sizes.1,
        in_width: sizes.2,
        out_channels: k * groups,
        kernel: [geometry.0, geometry.1],
        stride: [geometry.2, geometry.3],
        padding: [geometry.4, geometry.5],
        dilation: [geometry.6, 3 - geometry.6],
        groups,
    })
}

fn winograd_shapes() -> impl Strategy<Value = ConvShape> {
    (shapes(), prop::bool::ANY).prop_map(|(shape, is_padded)| ConvShape {
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        padding: if is_padded { [1, 1] } else { shape.padding },
        in_channels: shape.in_channels / shape.groups,
        out_channels: shape.out_channels / shape.groups,
        groups: 1,
        ..shape
    })
}

/// Of the algorithm for stems, where there are at most 8 input channels: 7 or 8 taps per side, stride 2.
fn stem_shapes() -> impl Strategy<Value = ConvShape> {
    (shapes(), 7..=8_usize, 7..=8_usize, 0..=4_usize, 0..=4_usize).prop_map(|(shape, height, width, y, x)| ConvShape {
        kernel: [height, width],
        stride: [2, 2],
        dilation: [1, 1],
        padding: [y, x],
        in_channels: shape.in_channels / shape.groups,
        out_channels: shape.out_channels / shape.groups,
        groups: 1,
        ..shape
    })
}

fn depthwise_shapes() -> impl Strategy<Value = ConvShape> {
    shapes().prop_map(|shape| ConvShape { out_channels: shape.in_channels, groups: shape.in_channels, ..shape })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_agrees_with_the_definition(shape in shapes()) {
        check(&shape);
    }

    #[test]
    fn any_depthwise_shape_agrees_with_the_definition(shape in depthwise_shapes()) {
        check(&shape);
    }

    #[test]
    fn any_shape_packed_gives_the_same_bits(
        shape in prop_oneof![shapes(), winograd_shapes(), stem_shapes(), depthwise_shapes()],
    ) {
        check_packed(&shape);
    }

    #[test]
    fn any_3x3_shape_agrees_with_the_definition(shape in winograd_shapes()) {
        check(&shape);
    }

    #[test]
    fn any_stem_agrees_with_the_definition(shape in stem_shapes()) {
        check(&shape);
    }
}
