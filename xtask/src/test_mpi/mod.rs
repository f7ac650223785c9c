//! What docs/scaling.md says of several processes, under a real `mpirun`.

mod failures;
mod few_images;
mod layers;
mod mpirun;
mod options;
mod same_steps;
mod shared_images;
mod table;
mod throughput;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use mpirun::{Binding, LONG, Mpirun};
use options::Options;
use table::Row;

use crate::process::built;
use crate::tiny_training::TinyTraining;

/// Processes of most jobs.
const RANKS: usize = 2;

/// What every check works with.
struct Bench {
    mpirun: Mpirun,
    cbn: PathBuf,
    dir: PathBuf,
    training: TinyTraining,
    /// Where that ran to its end on [`RANKS`] processes.
    undisturbed: PathBuf,
}

pub fn run(arguments: &[String]) -> ExitCode {
    let result = Options::parse(arguments).and_then(|options| match options.only.as_deref() {
        Some(THROUGHPUT) => throughput::measure(&options).map(|()| true),
        _ => test(&options),
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// What is found, by the name of the check.
type Check = fn(&Bench, &Options) -> Result<Vec<Row>, String>;
const CHECKS: [(&str, Check); 4] = [
    ("steps", |bench, _| same_steps::check(bench)),
    ("kills", failures::killed),
    ("ends", |bench, _| failures::ended(bench)),
    ("images", |bench, _| shared_images::check(bench)),
];
const LAYERS: &str = "layers";
/// No check, and left out unless asked for.
const THROUGHPUT: &str = "throughput";

/// True if all is as it should be.
fn test(options: &Options) -> Result<bool, String> {
    let is_asked_for = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    if !CHECKS.iter().map(|(name, _)| *name).chain([LAYERS]).any(is_asked_for) {
        return Err(format!("there is no such check as {}", options.only.as_deref().unwrap_or_default()));
    }
    let mpirun = Mpirun::find(Binding::Free)?;
    let dir = fresh_dir(&options.dir)?;
    let mut rows = Vec::new();
    let began = Instant::now();
    if is_asked_for(LAYERS) && options.program.is_none() {
        let program = built(&["--workspace", "--features", "cbn/mpi", "--test", "mpi"], "mpi")?;
        rows = layers::check(&mpirun, &program, &dir)?;
        tell(&rows, LAYERS, began);
    }
    let checks: Vec<_> = CHECKS.iter().filter(|(name, _)| is_asked_for(name)).collect();
    if !checks.is_empty() {
        let bench = Bench::new(mpirun, dir, options.program.clone())?;
        for (name, check) in checks {
            let found = check(&bench, options)?;
            tell(&found, name, began);
            rows.extend(found);
        }
    }
    table::print(&rows);
    println!("\n{:.0} s", began.elapsed().as_secs_f64());
    Ok(rows.iter().all(|row| row.passed))
}

/// An absolute path, because processes of other directories are given it.
fn fresh_dir(dir: &Path) -> Result<PathBuf, String> {
    let failed = |error| format!("cannot make {}: {error}", dir.display());
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(failed)?;
    }
    fs::create_dir_all(dir).and_then(|()| dir.canonicalize()).map_err(failed)
}

/// `cbn` with the feature mpi.
fn built_cbn() -> Result<PathBuf, String> {
    built(&["--workspace", "--features", "cbn-cli/mpi", "--bin", "cbn"], "cbn")
}

impl Bench {
    /// Builds the program, and runs the tiny training once.
    fn new(mpirun: Mpirun, dir: PathBuf, program: Option<PathBuf>) -> Result<Self, String> {
        let cbn = program.map_or_else(built_cbn, Ok)?;
        let training = TinyTraining::new(cbn.clone(), &dir)?;
        let undisturbed = dir.join("undisturbed");
        let bench = Self { mpirun, cbn, dir, training, undisturbed };
        bench.finish(&bench.undisturbed)?;
        Ok(bench)
    }
}

/// Checkpoints are large: what has been looked at goes.
fn remove(work_dir: &Path) -> Result<(), String> {
    fs::remove_dir_all(work_dir).map_err(|error| format!("cannot remove {}: {error}", work_dir.display()))
}

fn tell(rows: &[Row], name: &str, began: Instant) {
    let num_failed = rows.iter().filter(|row| !row.passed).count();
    println!("{name}: {} checks, {num_failed} failed, {:.0} s so far", rows.len(), began.elapsed().as_secs_f64());
}
