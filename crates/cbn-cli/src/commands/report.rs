//! `cbn report`: a page about one run, or about several side by side.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cbn_report::{ReportConfig, Run, RunPaths, report};

use crate::cli::ReportArgs;

pub fn run(args: &ReportArgs) -> Result<()> {
    let output = args.output.clone().unwrap_or_else(|| default_output(args));
    // Before the work: a page that cannot be written need not be made. What an earlier report says stays until there is a new one.
    let probe = File::options().create(true).append(true).open(&output);
    probe.with_context(|| format!("cannot write {}", output.display()))?;
    let paths = RunPaths { val_annotations: args.val_annotations.clone(), val_images: args.val_images.clone() };
    let mut runs: Vec<Run> = args.runs.iter().map(|dir| Run::open(dir, &paths)).collect::<Result<_, _>>()?;
    tell_apart(&mut runs, &args.runs);
    let config = ReportConfig { num_bootstrap: args.bootstrap, num_pictures: args.pictures };
    let page = report(&runs, &config)?;
    std::fs::write(&output, page).with_context(|| format!("cannot write {}", output.display()))?;
    println!("{}", output.display());
    Ok(())
}

/// Directories of one name are called by their paths, as given.
fn tell_apart(runs: &mut [Run], dirs: &[PathBuf]) {
    let names: BTreeSet<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    if names.len() < runs.len() {
        runs.iter_mut().zip(dirs).for_each(|(run, dir)| run.name = dir.display().to_string());
    }
}

/// In the run's directory; of several runs, here.
fn default_output(args: &ReportArgs) -> PathBuf {
    match args.runs.as_slice() {
        [run] => run.join("report.html"),
        _ => PathBuf::from("report.html"),
    }
}
