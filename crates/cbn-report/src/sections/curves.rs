//! What moved during training.

use std::collections::BTreeSet;

use crate::Run;
use crate::chart::{LineChart, Series};
use crate::log::Iteration;
use crate::page::{Block, Figure, Section};

/// Points that a line has at most.
const MAX_POINTS: usize = 120;

/// Curves of one run, or of several over each other.
pub(super) fn section(runs: &[Run]) -> Section {
    let mut figures = vec![
        over_iterations(
            runs,
            "Loss",
            "loss",
            &|record| record.loss,
            "Mean of neighbouring iterations; the shadow spans their lowest and highest.",
        ),
        single_losses(runs),
        over_iterations(
            runs,
            "Class accuracy",
            "% of regions",
            &|record| record.class_accuracy,
            "Of the regions that a step learns from, those whose class or background the box head has right.",
        ),
        scores(runs),
        over_iterations(runs, "Learning rate", "learning rate", &|record| record.learning_rate, ""),
        over_iterations(runs, "Gradient norm", "L2 norm", &|record| record.gradient_norm, "Before clipping."),
        over_iterations(runs, "Memory", "peak MiB", &|record| record.peak_memory_mib, "Largest resident set so far."),
    ];
    figures.retain(Option::is_some);
    let resumed: Vec<String> = runs.iter().flat_map(|run| run.log.resumed_at.iter().map(usize::to_string)).collect();
    let intro = match resumed.as_slice() {
        [] => String::new(),
        at => format!("Dashed lines: the run was taken up again after iteration {}.", at.join(", ")),
    };
    let figures: Vec<Figure> = figures.into_iter().flatten().collect();
    let blocks = if figures.is_empty() { Vec::new() } else { vec![Block::Figures(figures)] };
    Section { id: "training", title: "Training", intro, blocks }
}

fn marks(runs: &[Run]) -> Vec<f64> {
    runs.iter().flat_map(|run| run.log.resumed_at.iter().map(|&at| at as f64)).collect()
}

pub(super) fn over_iterations(
    runs: &[Run],
    title: &str,
    y_label: &'static str,
    value: &dyn Fn(&Iteration) -> Option<f64>,
    note: &str,
) -> Option<Figure> {
    let series = |run: &Run| {
        let (points, band) =
            thinned(run.log.iterations.iter().filter_map(|record| Some((record.iteration, value(record)?))));
        // Shadows over each other hide the lines.
        let band = if runs.len() == 1 { band } else { Vec::new() };
        Series { name: run.name.clone(), points, band }
    };
    let chart = LineChart {
        x_label: "iteration",
        y_label,
        series: runs.iter().map(series).collect(),
        marks: marks(runs),
        ..LineChart::default()
    };
    Figure::lines(title, &chart, note)
}

/// Of a single run only: lines of several would be too many.
fn single_losses(runs: &[Run]) -> Option<Figure> {
    let [run] = runs else { return None };
    let names: BTreeSet<&String> = run.log.iterations.iter().flat_map(|record| record.losses.keys()).collect();
    let series = names.into_iter().map(|name| {
        let values =
            run.log.iterations.iter().filter_map(|record| Some((record.iteration, record.losses.get(name).copied()??)));
        Series { name: name.clone(), points: thinned(values).0, band: Vec::new() }
    });
    let chart = LineChart {
        x_label: "iteration",
        y_label: "loss",
        series: series.collect(),
        marks: marks(runs),
        ..LineChart::default()
    };
    Figure::lines("Single losses", &chart, "Their sum is the loss.")
}

/// AP and, of a single run, AP50 over epochs.
fn scores(runs: &[Run]) -> Option<Figure> {
    let mut series = Vec::new();
    for run in runs {
        let per_epoch = run.log.iterations_per_epoch.unwrap_or(1).max(1) as f64;
        for (kind, word) in [("bbox", "box"), ("segm", "mask")] {
            for name in if runs.len() == 1 { &["AP", "AP50"][..] } else { &["AP"] } {
                let value = |metrics: &std::collections::BTreeMap<
                    String,
                    std::collections::BTreeMap<String, Option<f64>>,
                >| { metrics.get(kind)?.get(*name).copied().flatten() };
                let points: Vec<(f64, f64)> = run
                    .log
                    .evaluations
                    .iter()
                    .filter_map(|evaluation| {
                        Some((evaluation.iteration as f64 / per_epoch, value(&evaluation.metrics)?))
                    })
                    .collect();
                let prefix = if runs.len() == 1 { String::new() } else { format!("{} ", run.name) };
                if !points.is_empty() {
                    series.push(Series { name: format!("{prefix}{word} {name}"), points, band: Vec::new() });
                }
            }
        }
    }
    let chart = LineChart { x_label: "epoch", y_label: "AP", series, ..LineChart::default() };
    Figure::lines("Average precision", &chart, "On the validation images.")
}

/// Line and shadow.
type Thinned = (Vec<(f64, f64)>, Vec<(f64, f64, f64)>);

/// Means of neighbours, at most [`MAX_POINTS`] of them, at their last iteration; and their extremes where a mean is of several.
pub(super) fn thinned(values: impl Iterator<Item = (usize, f64)>) -> Thinned {
    let values: Vec<(usize, f64)> = values.collect();
    let size = values.len().div_ceil(MAX_POINTS).max(1);
    let mut thinned = Thinned::default();
    for group in values.chunks(size) {
        let at = group[group.len() - 1].0 as f64;
        let numbers = || group.iter().map(|(_, value)| *value);
        thinned.0.push((at, numbers().sum::<f64>() / group.len() as f64));
        if size > 1 {
            thinned.1.push((at, numbers().fold(f64::INFINITY, f64::min), numbers().fold(f64::NEG_INFINITY, f64::max)));
        }
    }
    thinned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_are_thinned_to_means() {
        let (points, band) = thinned((1..=10 * MAX_POINTS).map(|at| (at, at as f64)));
        assert_eq!(points.len(), MAX_POINTS);
        assert_eq!((points[0], band[0]), ((10.0, 5.5), (10.0, 1.0, 10.0)));
        let (points, band) = thinned((1..=3).map(|at| (at, at as f64)));
        assert_eq!((points.len(), band.len()), (3, 0));
    }
}
