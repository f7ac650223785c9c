//! The convolutions of a detector.

use super::Report;
use super::server::alternate;
use super::setup::Setup;
use super::table::{Row, Table};

/// Batch, C, H, W, K, kernel, stride: two images of 800 x 1344 through a detector with ResNet-50 and FPN, as in
/// `crates/cbn-kernels/benches/conv.rs`.
const SHAPES: [(&str, [usize; 7]); 14] = [
    ("stem", [2, 3, 800, 1344, 64, 7, 2]),
    ("c2.1x1", [2, 64, 200, 336, 64, 1, 1]),
    ("c2.3x3", [2, 64, 200, 336, 64, 3, 1]),
    ("c2.expand", [2, 64, 200, 336, 256, 1, 1]),
    ("c3.down", [2, 128, 200, 336, 128, 3, 2]),
    ("c3.3x3", [2, 128, 100, 168, 128, 3, 1]),
    ("c3.reduce", [2, 512, 100, 168, 128, 1, 1]),
    ("c4.3x3", [2, 256, 50, 84, 256, 3, 1]),
    ("c4.reduce", [2, 1024, 50, 84, 256, 1, 1]),
    ("c5.3x3", [2, 512, 25, 42, 512, 3, 1]),
    ("fpn.p2", [2, 256, 200, 336, 256, 3, 1]),
    ("box.3x3", [1024, 256, 7, 7, 256, 3, 1]),
    ("mask.3x3", [256, 256, 14, 14, 256, 3, 1]),
    ("c4.shortcut", [2, 512, 100, 168, 1024, 1, 2]),
];

/// Forward, then backward: the gradients of input and weight.
pub fn measure(setup: &Setup, report: &mut Report) -> Result<(), String> {
    const DIRECTIONS: [&str; 2] = ["forward", "backward"];
    let mut servers = setup.serve_all("bench_conv", "conv.py")?;
    let mut rows = [Vec::new(), Vec::new()];
    for (name, sizes) in SHAPES {
        let sizes = sizes.map(|size| size.to_string()).join(" ");
        let requests = DIRECTIONS.map(|direction| format!("{direction} {sizes}"));
        let answers = alternate(&mut servers, &requests, setup.repetitions)?;
        for (rows, answers) in rows.iter_mut().zip(&answers) {
            rows.push(Row::of_best(name, &servers, answers));
        }
    }
    for (direction, rows) in DIRECTIONS.into_iter().zip(rows) {
        report.add(&Table::new(format!("Convolutions, {direction}"), "ms", rows).with_sum());
    }
    Ok(())
}
