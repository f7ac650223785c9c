//! `cbn report`: a page about one run, or about several side by side.

use std::path::PathBuf;

use anyhow::{Context, Result};
use cbn_report::{ReportConfig, Run, RunPaths, report};

use crate::cli::ReportArgs;

pub fn run(args: &ReportArgs) -> Result<()> {
    let output = args.output.clone().unwrap_or_else(|| default_output(args));
    // Before the work: a page that cannot be written need not be made.
    std::fs::write(&output, "").with_context(|| format!("cannot write {}", output.display()))?;
    let paths = RunPaths { val_annotations: args.val_annotations.clone(), val_images: args.val_images.clone() };
    let runs: Vec<Run> = args.runs.iter().map(|dir| Run::open(dir, &paths)).collect::<Result<_, _>>()?;
    let config = ReportConfig { num_bootstrap: args.bootstrap, num_pictures: args.pictures };
    let page = report(&runs, &config)?;
    std::fs::write(&output, page).with_context(|| format!("cannot write {}", output.display()))?;
    println!("{}", output.display());
    Ok(())
}

/// In the run's directory; of several runs, here.
fn default_output(args: &ReportArgs) -> PathBuf {
    match args.runs.as_slice() {
        [run] => run.join("report.html"),
        _ => PathBuf::from("report.html"),
    }
}
