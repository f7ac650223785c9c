//! The group itself, and norms over it: `crates/cbn/tests/mpi.rs`.

use std::path::Path;

use super::mpirun::Mpirun;
use super::table::Row;

/// What the test itself bears.
const TOLERANCE: f64 = 1e-5;

pub fn check(mpirun: &Mpirun, program: &Path, dir: &Path) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for ranks in [2, 3, 4] {
        let ended = mpirun.run(ranks, (program, &[]), &dir.join(format!("layers_{ranks}")))?;
        rows.push(Row::fact(format!("sums, gathering, broadcasts on {ranks}"), "exact", "exact", true));
        for line in ended.stdout.lines() {
            rows.push(row(line).ok_or_else(|| format!("the layers' test says what is not understood: {line}"))?);
        }
    }
    Ok(rows)
}

/// Of a line `name [sizes]: 1e-7 (where)`.
fn row(line: &str) -> Option<Row> {
    let (name, found) = line.split_once(": ")?;
    let (number, place) = found.split_once(' ')?;
    let place = place.trim_matches(['(', ')']);
    Some(Row::difference(format!("{name} against one process"), (number.parse().ok()?, place), TOLERANCE))
}
