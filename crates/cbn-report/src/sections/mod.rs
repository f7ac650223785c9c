//! What a report says, section by section.

mod compare;
mod curves;
mod facts;
mod pictures;
mod scores;

use askama::Template;

use crate::page::{Page, Tile};
use crate::{ReportError, Run};

/// What a report's reader may choose.
#[derive(Debug, Clone)]
pub struct ReportConfig {
    /// Draws of the images for intervals.
    pub num_bootstrap: usize,
    /// Best images, and as many worst.
    pub num_pictures: usize,
}

impl Default for ReportConfig {
    fn default() -> Self {
        Self { num_bootstrap: 1000, num_pictures: 4 }
    }
}

/// Of the bootstrap: the same run has the same report.
const BOOTSTRAP_SEED: u64 = 0;

/// One HTML page without references to anything outside: of a run, or of several beside the first.
///
/// # Errors
///
/// There is no run.
pub fn report(runs: &[Run], config: &ReportConfig) -> Result<String, ReportError> {
    let page = match runs {
        [] => return Err(ReportError::NoRuns),
        [run] => single(run, config),
        runs => compare::page(runs, config),
    };
    Ok(page.render()?)
}

fn single(run: &Run, config: &ReportConfig) -> Page {
    let mut sections = vec![curves::section(std::slice::from_ref(run))];
    if let Some(results) = &run.results {
        sections.push(scores::classes(results, config));
        sections.push(scores::precision(results));
        sections.push(scores::errors(results));
        sections.push(scores::calibration(results));
        sections.push(pictures::section(results, config.num_pictures));
    }
    sections.push(facts::timing(std::slice::from_ref(run)));
    sections.extend(facts::machine(run));
    sections.extend(facts::recipe(run));
    sections.retain(|section| !section.blocks.is_empty());
    Page {
        title: run.name.clone(),
        subtitle: run.description().to_owned(),
        tiles: tiles(run),
        sections,
        footer: footer(run),
    }
}

fn footer(run: &Run) -> String {
    let version = run.info.as_ref().map_or("an unknown version", |info| &info.version);
    format!("Trained with cbn {version}, reported by cbn {}.", env!("CARGO_PKG_VERSION"))
}

fn tiles(run: &Run) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let mut tile = |label: &str, value: String, note: String| {
        tiles.push(Tile { label: label.to_owned(), value, note });
    };
    let metrics = run.log.evaluations.last().map(|evaluation| &evaluation.metrics);
    for (kind, label) in [("bbox", "Box AP"), ("segm", "Mask AP")] {
        let value = |name: &str| metrics.and_then(|metrics| metrics.get(kind)?.get(name).copied().flatten());
        if let Some(ap) = value("AP") {
            let ap50 = value("AP50").map_or_else(String::new, |ap50| format!("{ap50:.3} at IoU 0.50"));
            tile(label, format!("{ap:.3}"), ap50);
        }
    }
    let num_done = run.log.iterations.last().map_or(0, |record| record.iteration);
    let of = run.log.num_iterations.map_or_else(String::new, |all| format!("of {all}"));
    let state = if run.log.is_finished() { "finished".to_owned() } else { format!("{of}, not finished") };
    tile("Iterations", num_done.to_string(), state);
    let timing = facts::Timing::of(run);
    if timing.total_s > 0.0 {
        tile(
            "Time",
            facts::duration(timing.total_s),
            format!("{} of it evaluating", facts::duration(timing.evaluation_s)),
        );
    }
    if let Some(speed) = timing.images_per_s {
        tile("Images per second", format!("{speed:.2}"), "training, median".to_owned());
    }
    if let Some(peak) = run.log.iterations.iter().filter_map(|record| record.peak_memory_mib).reduce(f64::max) {
        tile("Peak memory", format!("{:.1} GiB", peak / 1024.0), "resident set".to_owned());
    }
    tiles
}
