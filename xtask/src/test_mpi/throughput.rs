//! How much faster two processes train than one.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::mpirun::{Binding, Mpirun};
use super::options::Options;
use super::{RANKS, built_cbn, fresh_dir, remove};
use crate::bench_peers::table::median;
use crate::process::workspace_root;

/// Steps of a training, of which the first fill the window, the caches and the allocator.
const STEPS: usize = 20;
const WARM_UP: usize = 5;

/// The times of a step in the log.
const PARTS: [&str; 6] = ["elapsed_s", "data_s", "forward_s", "backward_s", "optimizer_s", "exchange_s"];

/// The times of one step, in the order of [`PARTS`].
type Step = [f64; PARTS.len()];

/// Prints the table.
pub fn measure(options: &Options) -> Result<(), String> {
    let mpirun = Mpirun::find(Binding::Cores)?;
    let cbn = options.program.clone().map_or_else(built_cbn, Ok)?;
    let dir = fresh_dir(&options.dir)?;
    let mut steps: [Vec<Step>; RANKS] = Default::default();
    if options.rounds == 0 {
        return Err("--rounds 0: there must be one".to_owned());
    }
    for round in 1..=options.rounds {
        for (ranks, steps) in (1..).zip(&mut steps) {
            let work_dir = dir.join(format!("throughput_{ranks}"));
            mpirun.run(ranks, (&cbn, &arguments(options, &work_dir)), &work_dir)?;
            let found = read(&work_dir)?;
            println!("round {round}, {ranks} processes: {:.3} s", median_of(&found, 0));
            steps.extend(found);
            remove(&work_dir)?;
        }
    }
    print(&steps);
    Ok(())
}

/// The recipe, at a burn-in of no iterations: after the first of its epochs the window is open.
fn arguments(options: &Options, work_dir: &Path) -> Vec<OsString> {
    let recipe = workspace_root().join("recipes/nuclei_mask_rcnn_r18_cbn.toml");
    let mut arguments: Vec<OsString> = vec!["train".into(), recipe.into(), "--data".into(), (&options.data).into()];
    arguments.extend(["--work-dir".into(), work_dir.into(), "--max-iterations".into(), STEPS.to_string().into()]);
    let parts = ["backbone", "neck", "box_head", "mask_head"];
    let settings = parts.map(|part| format!("norm.{part}.burn_in={{ iterations = 0 }}"));
    // The run ends with an evaluation, which nobody times here.
    for setting in settings.into_iter().chain(["train.evaluate_images=1".to_owned()]) {
        arguments.extend(["--set".into(), setting.into()]);
    }
    arguments
}

/// The steps after the warm-up.
fn read(work_dir: &Path) -> Result<Vec<Step>, String> {
    let path = work_dir.join("log.jsonl");
    let log = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut steps = Vec::new();
    for line in log.lines() {
        let record: Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
        if record["event"] == "iteration" {
            steps.push(PARTS.map(|part| record[part].as_f64().unwrap_or(f64::NAN)));
        }
    }
    if steps.len() == STEPS { Ok(steps.split_off(WARM_UP)) } else { Err(format!("{} steps in {log}", steps.len())) }
}

/// Of the part at this place.
fn median_of(steps: &[Step], part: usize) -> f64 {
    median(steps.iter().map(|step| step[part]).collect())
}

fn mean_of(steps: &[Step], part: usize) -> f64 {
    steps.iter().map(|step| step[part]).sum::<f64>() / steps.len() as f64
}

fn print(steps: &[Vec<Step>; RANKS]) {
    println!("\n| processes | steps | median, s | mean, s | {} |", PARTS[1..].join(" | "));
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (ranks, steps) in (1..).zip(steps) {
        let parts: Vec<String> = (1..PARTS.len()).map(|part| format!("{:.3}", mean_of(steps, part))).collect();
        let (median, mean) = (median_of(steps, 0), mean_of(steps, 0));
        println!("| {ranks} | {} | {median:.3} | {mean:.3} | {} |", steps.len(), parts.join(" | "));
    }
    let ratio = |of: fn(&[Step], usize) -> f64| of(&steps[0], 0) / of(&steps[1], 0);
    println!("\nParts are means, of rank 0. Ratio of medians {:.2}, of means {:.2}", ratio(median_of), ratio(mean_of));
}
