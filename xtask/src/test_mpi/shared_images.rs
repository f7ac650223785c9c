//! Evaluation and detection over processes: the same files as of one.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::table::Row;
use super::{Bench, RANKS};
use crate::process::workspace_root;

pub fn check(bench: &Bench) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    // With 4 images: one each turn, and a turn in which some have none.
    for (batch, ranks) in [(1, RANKS), (3, RANKS), (1, 3)] {
        let is_same = test(bench, batch, 1)? == test(bench, batch, ranks)?;
        let what = format!("cbn test, batches of {batch}, {ranks} processes: scores and detections of one");
        rows.push(Row::fact(what, same(is_same), "the same bytes", is_same));
        let is_same = detect(bench, batch, 1)? == detect(bench, batch, ranks)?;
        let what =
            format!("cbn detect, batches of {batch}, {ranks} processes: lines, detections.json and overlays of one");
        rows.push(Row::fact(what, same(is_same), "the same bytes", is_same));
    }
    Ok(rows)
}

fn same(is_same: bool) -> &'static str {
    if is_same { "the same bytes" } else { "others" }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// What it prints, and the file of detections.
fn test(bench: &Bench, batch: usize, ranks: usize) -> Result<[Vec<u8>; 2], String> {
    let output = bench.dir.join(format!("test_{batch}_on_{ranks}"));
    let out = output.with_extension("json");
    let recipe = workspace_root().join("recipes/shapes_mask_rcnn_r18_cbn.toml");
    let mut arguments: Vec<OsString> =
        vec!["test".into(), recipe.into(), bench.training.last_checkpoint_path(&bench.undisturbed).into()];
    arguments.extend(["--data".into(), (&bench.training.data).into(), "--out".into(), (&out).into(), "--json".into()]);
    arguments.extend(["--set".into(), format!("test.batch_size={batch}").into()]);
    let ended = bench.mpirun.run(ranks, (&bench.cbn, &arguments), &output)?;
    Ok([ended.stdout.into_bytes(), read(&out)?])
}

/// What it prints, the file of detections, and the pictures.
fn detect(bench: &Bench, batch: usize, ranks: usize) -> Result<Vec<Vec<u8>>, String> {
    let output = bench.dir.join(format!("detect_{batch}_on_{ranks}"));
    // One path for all, because it stands in the records.
    let out_dir = bench.dir.join("detected");
    let mut arguments: Vec<OsString> =
        vec!["detect".into(), bench.training.last_checkpoint_path(&bench.undisturbed).into()];
    arguments.extend([
        bench.training.data.join("images").into(),
        "--out-dir".into(),
        (&out_dir).into(),
        "--jsonl".into(),
    ]);
    arguments.extend(["--score", "0.05", "--batch", &batch.to_string()].map(OsString::from));
    let ended = bench.mpirun.run(ranks, (&bench.cbn, &arguments), &output)?;
    let mut found = vec![ended.stdout.into_bytes()];
    let entries = fs::read_dir(&out_dir).map_err(|error| format!("{}: {error}", out_dir.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.is_file()) {
        found.push(read(path)?);
    }
    fs::remove_dir_all(&out_dir).map_err(|error| format!("{}: {error}", out_dir.display()))?;
    Ok(found)
}
