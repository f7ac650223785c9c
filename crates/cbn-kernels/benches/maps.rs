//! Times of the kernels that are no convolutions, on the shapes of two images of 800 x 1344 in Mask R-CNN R-50-FPN.
//!
//! `cargo bench -p cbn-kernels --bench maps -- [filter]`; `RAYON_NUM_THREADS` sets the threads, `CBN_MAX_ISA` the instruction set.

use cbn_kernels::{Clipped, ConvShape, GroupNorm, GroupShape, MapShape, MaskSampling, MaxPool};
use cbn_kernels::{PyramidLevel, PyramidRoi, Roi, RoiAlign, pyramid_roi_align, pyramid_roi_align_backward};
use divan::Bencher;
use divan::counter::BytesCount;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A map of C3 inside its residual blocks, 17 MB.
const C3: MapShape = MapShape { batch: 2, height: 100, width: 168, channels: 128 };

fn main() {
    divan::main();
}

/// Values in [-0.5, 0.5).
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect()
}

/// What a pass over maps of so many floats moves.
fn maps(count: usize, len: usize) -> BytesCount {
    BytesCount::new(count * len * size_of::<f32>())
}

#[divan::bench]
fn channel_moments(bencher: Bencher<'_, '_>) {
    let y = values(C3.len());
    bencher.counter(maps(1, y.len())).bench(|| cbn_kernels::channel_moments(&y, C3.channels));
}

#[divan::bench(args = [false, true])]
fn affine(bencher: Bencher<'_, '_>, relu: bool) {
    let (y, scale) = (values(C3.len()), values(C3.channels));
    bencher.counter(maps(2, y.len())).bench(|| cbn_kernels::affine(&y, &scale, &scale, relu));
}

#[divan::bench(args = [false, true])]
fn norm_backward_sums(bencher: Bencher<'_, '_>, relu: bool) {
    let (y, scale) = (values(C3.len()), values(C3.channels));
    let clipped = relu.then_some(Clipped { scale: &scale, shift: &scale });
    bencher.counter(maps(2, y.len())).bench(|| cbn_kernels::norm_backward_sums(&y, &y, &scale, clipped));
}

#[divan::bench(args = [false, true])]
fn norm_backward_apply(bencher: Bencher<'_, '_>, relu: bool) {
    let (y, scale) = (values(C3.len()), values(C3.channels));
    let clipped = relu.then_some(Clipped { scale: &scale, shift: &scale });
    bencher.counter(maps(3, y.len())).bench(|| cbn_kernels::norm_backward_apply(&y, &y, [&scale; 4], clipped));
}

#[divan::bench]
fn relu_block_gradient(bencher: Bencher<'_, '_>) {
    let y = values(C3.len());
    bencher.counter(maps(4, y.len())).bench(|| cbn_kernels::relu_block_gradient(&y, Some(&y), &y, C3.channels));
}

/// Runs `work` with a group norm of 32 groups of C3 and its map.
fn with_group_norm(work: impl FnOnce(&GroupNorm<'_>, &[f32])) {
    let shape = GroupShape { batch: 2, pixels: C3.height * C3.width, channels: C3.channels, groups: 32 };
    let (x, gamma) = (values(C3.len()), values(C3.channels));
    let (mean, var) = cbn_kernels::group_moments(&x, &shape);
    work(&GroupNorm { shape, mean: &mean, inv_std: &var, gamma: &gamma, beta: &gamma, relu: true }, &x);
}

#[divan::bench]
fn group_moments(bencher: Bencher<'_, '_>) {
    with_group_norm(|norm, x| bencher.counter(maps(1, x.len())).bench(|| cbn_kernels::group_moments(x, &norm.shape)));
}

#[divan::bench]
fn group_norm_forward(bencher: Bencher<'_, '_>) {
    let mut y = values(C3.len());
    with_group_norm(|norm, x| bencher.counter(maps(2, x.len())).bench_local(|| norm.forward(x, &mut y)));
}

#[divan::bench]
fn group_norm_backward(bencher: Bencher<'_, '_>) {
    let mut grad_x = values(C3.len());
    with_group_norm(|norm, x| bencher.counter(maps(5, x.len())).bench_local(|| norm.backward(x, x, &mut grad_x)));
}

/// What CBN keeps of a map: the mean 3x3 patch.
#[divan::bench]
fn mean_patch(bencher: Bencher<'_, '_>) {
    let shape = ConvShape {
        batch: C3.batch,
        in_channels: C3.channels,
        in_height: C3.height,
        in_width: C3.width,
        out_channels: 1,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        dilation: [1, 1],
        groups: 1,
    };
    let x = values(C3.len());
    bencher.counter(maps(1, x.len())).bench(|| cbn_kernels::mean_patch(&shape, &x));
}

/// A 3x3 weight of 256 to 256 channels with a patch, as CBN corrects a mean.
#[divan::bench]
fn row_dots(bencher: Bencher<'_, '_>) {
    let (patch, weight) = (values(9 * 256), values(9 * 256 * 256));
    bencher.counter(maps(1, weight.len())).bench(|| cbn_kernels::row_dots(&patch, &weight, 1, 256));
}

/// The pooling behind the stem.
const POOL: MaxPool = MaxPool { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
const STEM: MapShape = MapShape { batch: 2, height: 400, width: 672, channels: 64 };

#[divan::bench]
fn max_pool_forward(bencher: Bencher<'_, '_>) {
    let (x, len) = (values(STEM.len()), POOL.output(&STEM).len());
    let (mut y, mut argmax) = (vec![0.0; len], vec![0; len]);
    bencher.counter(maps(1, x.len())).bench_local(|| POOL.forward(&STEM, &x, &mut y, &mut argmax));
}

#[divan::bench]
fn max_pool_backward(bencher: Bencher<'_, '_>) {
    let (x, len) = (values(STEM.len()), POOL.output(&STEM).len());
    let (mut y, mut argmax, mut grad_x) = (vec![0.0; len], vec![0; len], x.clone());
    POOL.forward(&STEM, &x, &mut y, &mut argmax);
    bencher.counter(maps(1, x.len())).bench_local(|| POOL.backward(&STEM, &y, &argmax, &mut grad_x));
}

const P3: MapShape = MapShape { batch: 2, height: 100, width: 168, channels: 256 };
const P2: MapShape = MapShape { batch: 2, height: 200, width: 336, channels: 256 };

#[divan::bench]
fn upsample_add(bencher: Bencher<'_, '_>) {
    let (small, large) = (values(P3.len()), values(P2.len()));
    bencher.counter(maps(2, large.len())).bench(|| cbn_kernels::upsample_add(&P3, &small, &P2, &large));
}

#[divan::bench]
fn upsample_add_backward(bencher: Bencher<'_, '_>) {
    let (mut grad_small, large) = (values(P3.len()), values(P2.len()));
    let run = || cbn_kernels::upsample_add_backward(&P3, &P2, &large, &mut grad_small);
    bencher.counter(maps(1, large.len())).bench_local(run);
}

/// As the box head takes them: 1024 boxes, 7 x 7 bins.
fn boxes() -> (RoiAlign, Vec<PyramidRoi>) {
    let roi = |i: usize| {
        let side = (20 + i * 37 % 300) as f32;
        let (x1, y1) = ((i * 7919 % 1000) as f32, (i * 104_729 % 500) as f32);
        let roi = Roi { batch_index: i % 2, x1, y1, x2: x1 + side, y2: y1 + side };
        PyramidRoi { level: usize::from(side >= 112.0), roi }
    };
    let align = RoiAlign { output: [7, 7], sampling_ratio: 2, spatial_scale: 0.25, aligned: false };
    (align, (0..1024).map(roi).collect())
}

#[divan::bench]
fn roi_align_forward(bencher: Bencher<'_, '_>) {
    let (align, rois) = boxes();
    let (p2, p3) = (values(P2.len()), values(P3.len()));
    let levels = [
        PyramidLevel { align, map: P2, x: &p2 },
        PyramidLevel { align: RoiAlign { spatial_scale: 0.125, ..align }, map: P3, x: &p3 },
    ];
    bencher.counter(maps(1, align.output_len(&P2, rois.len()))).bench(|| pyramid_roi_align(&levels, &rois));
}

#[divan::bench]
fn roi_align_backward(bencher: Bencher<'_, '_>) {
    let (align, rois) = boxes();
    let grad_y = values(align.output_len(&P2, rois.len()));
    let run = || pyramid_roi_align_backward(&align, &P2, 0, &rois, &grad_y);
    bencher.counter(maps(1, grad_y.len())).bench(run);
}

#[divan::bench]
fn nms(bencher: Bencher<'_, '_>) {
    let (_, rois) = boxes();
    let boxes: Vec<[f32; 4]> = rois.iter().map(|PyramidRoi { roi, .. }| [roi.x1, roi.y1, roi.x2, roi.y2]).collect();
    let scores = values(boxes.len());
    bencher.bench(|| cbn_kernels::nms(&boxes, &scores, 0.7));
}

#[divan::bench]
fn paste_mask(bencher: Bencher<'_, '_>) {
    let mask = values(28 * 28);
    let bbox = [100.3, 50.7, 420.2, 300.9];
    bencher.bench(|| cbn_kernels::paste_mask(&mask, 28, bbox, [480, 640], 0.5, MaskSampling::Continuous));
}
