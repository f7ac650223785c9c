//! A training step of one convolution and its norm.

use super::Report;
use super::server::alternate;
use super::setup::Setup;
use super::table::{Row, Table};

/// Batch, C, H, W of a 3x3 convolution that keeps the shape.
const SHAPES: [[usize; 4]; 3] = [[2, 256, 100, 168], [1024, 256, 7, 7], [256, 256, 14, 14]];

/// What the servers call a norm, and what the table does. The peer has one CBN: all of its rows show that.
const NORMS: [(&str, &str); 6] = [
    ("bn", "conv + BN"),
    ("gn", "conv + GN"),
    ("cbn", "conv + CBN, window 4"),
    ("cbn-sampled", "conv + CBN, window 4, derivative_sampling 4"),
    ("cbn-through-weight", "conv + CBN, window 4, through weight"),
    ("cbn-exact-1024", "conv + CBN, window 4, exact (1024 positions), through weight"),
];

/// One table per shape. The norms are timed in turn, because they are compared with each other too.
pub fn measure(setup: &Setup, report: &mut Report) -> Result<(), String> {
    let mut servers = setup.serve_all("bench_layer", "layer.py")?;
    for shape in SHAPES {
        let sizes = shape.map(|size| size.to_string());
        let requests = NORMS.map(|(norm, _)| format!("{norm} {}", sizes.join(" ")));
        let answers = alternate(&mut servers, &requests, setup.repetitions)?;
        let rows: Vec<Row> =
            NORMS.iter().zip(&answers).map(|((_, what), answers)| Row::of_best(*what, &servers, answers)).collect();
        let batch_norm = rows[0].clone();
        let mut table = Table::new(format!("Training step of a layer, {}, 3x3", sizes.join(" x ")), "ms", rows);
        for row in &table.rows[2..] {
            let (ours, peer) = (row.ours / batch_norm.ours, row.peer / batch_norm.peer);
            table.notes.push(format!("{}: {ours:.2} times conv + BN here, {peer:.2} times in PyTorch.", row.what));
        }
        report.add(&table.with_sum());
    }
    Ok(())
}
