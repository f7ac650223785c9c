//! The convolutions of a detector.

use super::Report;
use super::server::alternate;
use super::setup::Setup;
use super::table::{Row, Table};

/// A line per convolution, as the kernels' own bench has them: a name, and the sizes that the servers are asked with.
const SHAPES: &str = include_str!("../../../tools/bench/conv_shapes.txt");

/// Forward, then backward: the gradients of input and weight.
pub fn measure(setup: &Setup, report: &mut Report) -> Result<(), String> {
    const DIRECTIONS: [&str; 2] = ["forward", "backward"];
    let mut servers = setup.serve_all("bench_conv", "conv.py")?;
    let mut rows = [Vec::new(), Vec::new()];
    let shapes = SHAPES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    for (name, sizes) in shapes {
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
