//! Times of convolutions: milliseconds, the best of many repetitions, forward, forward with a packed
//! weight, data gradient, weight gradient.
//!
//! `cargo bench -p cbn-kernels --bench conv -- [filter]`; `RAYON_NUM_THREADS` sets the threads.

#![expect(clippy::print_stdout, reason = "a bench prints its results")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use cbn_kernels::conv::{Algorithm, Method};
use cbn_kernels::{ConvShape, Epilogue, Isa, PackedWeight};

/// As the command has: its large blocks start on a cache line, others do not, and a load across two lines takes two steps.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Batch, C, H, W, K, kernel, stride.
type Row = (&'static str, [usize; 7]);

/// Two images of 800 x 1344 through a detector with ResNet-50 and FPN: a line per convolution, the name first.
const LARGE: &str = include_str!("../../../tools/bench/conv_shapes.txt");

/// Two images of 256 x 256 through a detector with ResNet-18 and FPN.
const SMALL: [Row; 13] = [
    ("small.stem", [2, 3, 256, 256, 64, 7, 2]),
    ("small.c2", [2, 64, 64, 64, 64, 3, 1]),
    ("small.c3.down", [2, 64, 64, 64, 128, 3, 2]),
    ("small.c3", [2, 128, 32, 32, 128, 3, 1]),
    ("small.c4.down", [2, 128, 32, 32, 256, 3, 2]),
    ("small.c4", [2, 256, 16, 16, 256, 3, 1]),
    ("small.c5.down", [2, 256, 16, 16, 512, 3, 2]),
    ("small.c5", [2, 512, 8, 8, 512, 3, 1]),
    ("small.lateral", [2, 128, 32, 32, 256, 1, 1]),
    ("small.fpn.p2", [2, 256, 64, 64, 256, 3, 1]),
    ("small.fpn.p5", [2, 256, 8, 8, 256, 3, 1]),
    ("small.rpn", [2, 256, 64, 64, 12, 1, 1]),
    ("small.fc", [128, 12544, 1, 1, 1024, 1, 1]),
];

/// Batch, C, H, W, C, kernel, stride of depthwise convolutions.
const DEPTHWISE: [Row; 2] =
    [("depthwise.c2", [2, 64, 200, 336, 64, 3, 1]), ("depthwise.c4", [2, 512, 50, 84, 512, 3, 1])];

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    println!("{:<14} {:<14} {:>17} {:>17} {:>17} {:>17}", "", "", "forward", "packed", "grad x", "grad w");
    println!("{:<14} {:<14} {}", "shape", "algorithm", "       ms  GFLOP/s".repeat(4));
    let dense = large().into_iter().chain(SMALL).map(|(name, sizes)| (name, shape(sizes)));
    let depthwise = DEPTHWISE.map(|(name, sizes)| (name, ConvShape { groups: sizes[1], ..shape(sizes) }));
    for (name, shape) in dense.chain(depthwise).filter(|(name, _)| name.contains(&filter)) {
        for algorithm in Algorithm::ALL {
            if algorithm.is_applicable(&shape) {
                row(name, &shape, Method { algorithm, isa: Isa::detect() });
            }
        }
    }
}

fn large() -> Vec<Row> {
    let row = |line: &'static str| {
        let (name, sizes) = line.split_once(' ').expect("a name and sizes");
        let sizes: Vec<usize> = sizes.split(' ').map(|size| size.parse().expect("a number")).collect();
        (name, sizes.try_into().expect("seven sizes"))
    };
    LARGE.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

fn shape([batch, in_channels, in_height, in_width, out_channels, kernel, stride]: [usize; 7]) -> ConvShape {
    ConvShape {
        batch,
        in_channels,
        in_height,
        in_width,
        out_channels,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [kernel / 2; 2],
        dilation: [1; 2],
        groups: 1,
    }
}

fn row(name: &str, shape: &ConvShape, method: Method) {
    let fill = |len: usize| (0..len).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect::<Vec<f32>>();
    let (x, weight, grad_y) = (fill(shape.input_len()), fill(shape.weight_len()), fill(shape.output_len()));
    let (mut y, mut grad_x, mut grad_weight) = (grad_y.clone(), x.clone(), weight.clone());
    let packed = PackedWeight::new(shape.weight_shape(), &weight);
    let times = [
        best(|| method.forward(shape, &x, &weight, &Epilogue::default(), black_box(&mut y))),
        best(|| method.forward_packed(shape, &x, &packed, &Epilogue::default(), black_box(&mut y))),
        best(|| method.backward_input(shape, &grad_y, &weight, black_box(&mut grad_x))),
        best(|| method.backward_weight(shape, &x, &grad_y, black_box(&mut grad_weight))),
    ];
    // Of the direct convolution, whatever the algorithm.
    let gflop = 2.0 * (shape.output_len() * shape.weight_len() / shape.out_channels) as f64 / 1e9;
    let columns = times.map(|time| format!(" {:>8.2} {:>8.0}", time.as_secs_f64() * 1e3, gflop / time.as_secs_f64()));
    println!("{name:<14} {:<14} {}", format!("{:?}", method.algorithm), columns.concat());
}

/// The shortest of the runs that fit into 0.6 s, three at least.
fn best(mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    let mut best = Duration::MAX;
    let mut runs = 0;
    while runs < 3 || start.elapsed() < Duration::from_millis(600) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
        runs += 1;
    }
    best
}
