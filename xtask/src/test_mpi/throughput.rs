//! How much faster two processes train than one, and than two that exchange nothing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::mpirun::{Binding, LONG, Mpirun};
use super::options::Options;
use super::{built_cbn, few_images, fresh_dir, remove};
use crate::bench_peers::table::median;
use crate::process::workspace_root;

/// What the recipe trains on in a step.
const BATCH: usize = 4;

/// Processes at work, each on a core of its own.
struct Setup {
    name: &'static str,
    processes: usize,
    /// Whether they train one model together.
    exchanges: bool,
    /// Images of a process in a step.
    images: usize,
}

/// The first is what all are measured by.
const SETUPS: [Setup; 6] = [
    Setup { name: "one process", processes: 1, exchanges: false, images: BATCH },
    Setup { name: "one process, half the batch", processes: 1, exchanges: false, images: BATCH / 2 },
    Setup { name: "two that exchange nothing, the batch each", processes: 2, exchanges: false, images: BATCH },
    Setup { name: "two that exchange nothing, half of it each", processes: 2, exchanges: false, images: BATCH / 2 },
    Setup { name: "two together, the batch each", processes: 2, exchanges: true, images: BATCH },
    Setup { name: "two together, half of it each", processes: 2, exchanges: true, images: BATCH / 2 },
];

/// The times of a step in the log.
const PARTS: [&str; 6] = ["elapsed_s", "data_s", "forward_s", "backward_s", "optimizer_s", "exchange_s"];

/// The times of one step, in the order of [`PARTS`].
type Step = [f64; PARTS.len()];

/// Prints the table.
pub fn measure(options: &Options) -> Result<(), String> {
    if options.rounds == 0 {
        return Err("--rounds 0: there must be one".to_owned());
    }
    let cbn = options.program.clone().map_or_else(built_cbn, Ok)?;
    let dir = fresh_dir(&options.dir)?;
    let data = few_images::folder(&options.data, &dir)?;
    let bench = Bench { cbn, data, dir };
    let mut of_setups: [Vec<Step>; SETUPS.len()] = Default::default();
    for round in 1..=options.rounds {
        for (setup, steps) in SETUPS.iter().zip(&mut of_setups) {
            let found = bench.run(setup)?;
            println!("round {round}, {}: {:.3} s", setup.name, mean(&found, 0));
            steps.extend(found);
        }
    }
    print(&of_setups);
    Ok(())
}

struct Bench {
    cbn: PathBuf,
    data: PathBuf,
    dir: PathBuf,
}

impl Bench {
    /// The steps of the second epoch, of every process that keeps a log.
    fn run(&self, setup: &Setup) -> Result<Vec<Step>, String> {
        let num_jobs = if setup.exchanges { 1 } else { setup.processes };
        let ranks = setup.processes / num_jobs;
        let work_dirs: Vec<PathBuf> = (0..num_jobs).map(|job| self.dir.join(format!("throughput_{job}"))).collect();
        let start = |(core, work_dir): (usize, &PathBuf)| {
            let binding = if setup.exchanges { Binding::Cores } else { Binding::Core(core) };
            let arguments = self.arguments(setup.images * ranks, work_dir);
            Mpirun::find(binding)?.start(ranks, (&self.cbn, &arguments), work_dir)
        };
        // All are started before the first is waited for.
        let jobs: Vec<_> = work_dirs.iter().enumerate().map(start).collect::<Result<_, _>>()?;
        let mut steps = Vec::new();
        for (job, work_dir) in jobs.into_iter().zip(&work_dirs) {
            let ended = job.wait(LONG)?;
            if ended.code != Some(0) {
                return Err(format!("{} ended with {:?}: {}", setup.name, ended.code, ended.stderr));
            }
            steps.extend(read(work_dir, num_steps(setup.images * ranks))?);
            remove(work_dir)?;
        }
        Ok(steps)
    }

    /// The recipe for two epochs, at a burn-in of no iterations: the first fills the window, the caches and the allocator.
    fn arguments(&self, batch_size: usize, work_dir: &Path) -> Vec<OsString> {
        let recipe = workspace_root().join("recipes/nuclei_mask_rcnn_r18_cbn.toml");
        let mut arguments: Vec<OsString> = vec!["train".into(), recipe.into(), "--data".into(), (&self.data).into()];
        let length = (2 * num_steps(batch_size)).to_string();
        arguments.extend(["--work-dir".into(), work_dir.into(), "--max-iterations".into(), length.into()]);
        let parts = ["backbone", "neck", "box_head", "mask_head"];
        let norms = parts.map(|part| format!("norm.{part}.burn_in={{ iterations = 0 }}"));
        // The run ends with an evaluation, which nobody times here.
        let others = [format!("train.batch_size={batch_size}"), "train.evaluate_images=1".to_owned()];
        for setting in norms.into_iter().chain(others) {
            arguments.extend(["--set".into(), setting.into()]);
        }
        arguments
    }
}

/// Of an epoch.
fn num_steps(batch_size: usize) -> usize {
    few_images::NUM_IMAGES / batch_size
}

/// The last steps.
fn read(work_dir: &Path, num_steps: usize) -> Result<Vec<Step>, String> {
    let path = work_dir.join("log.jsonl");
    let log = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut steps = Vec::new();
    for line in log.lines() {
        let record: Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
        if record["event"] == "iteration" {
            steps.push(PARTS.map(|part| record[part].as_f64().unwrap_or(f64::NAN)));
        }
    }
    if steps.len() == 2 * num_steps {
        Ok(steps.split_off(num_steps))
    } else {
        Err(format!("{} steps in {}", steps.len(), path.display()))
    }
}

/// Of the part at this place.
fn mean(steps: &[Step], part: usize) -> f64 {
    steps.iter().map(|step| step[part]).sum::<f64>() / steps.len() as f64
}

fn print(of_setups: &[Vec<Step>; SETUPS.len()]) {
    println!(
        "\n| | images a process and step | steps | median, s | mean, s | images/s | of medians | of means | {} |",
        PARTS[1..].join(" | ")
    );
    println!("|---|{}", "---:|".repeat(7 + PARTS.len() - 1));
    let mut of_first = None;
    for (setup, steps) in SETUPS.iter().zip(of_setups) {
        let num_images = (setup.processes * setup.images) as f64;
        let median = median(steps.iter().map(|step| step[0]).collect());
        let [of_median, of_mean] = [median, mean(steps, 0)].map(|step_s| num_images / step_s);
        let (first_median, first_mean) = *of_first.get_or_insert((of_median, of_mean));
        let parts: Vec<String> = (1..PARTS.len()).map(|part| format!("{:.3}", mean(steps, part))).collect();
        println!(
            "| {} | {} | {} | {median:.3} | {:.3} | {of_mean:.2} | {:.2} | {:.2} | {} |",
            setup.name,
            setup.images,
            steps.len(),
            mean(steps, 0),
            of_median / first_median,
            of_mean / first_mean,
            parts.join(" | ")
        );
    }
    println!(
        "\nImages/s from the mean step; ratios are of images/s to the first line's. Parts are means, of rank 0 where two train together."
    );
}
