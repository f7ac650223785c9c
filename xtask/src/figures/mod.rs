//! Pictures in docs/figures, from the runs kept in docs/results.

mod chart;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use chart::{Panel, Point, Series};

use crate::evidence::cifar;
use crate::evidence::nuclei;
use crate::evidence::table::{number, read_lines, spread};
use crate::process::workspace_root;

pub fn run() -> ExitCode {
    match draw_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn draw_all() -> Result<(), String> {
    let figures = workspace_root().join("docs/figures");
    fs::create_dir_all(&figures).map_err(|error| format!("{}: {error}", figures.display()))?;
    chart::draw(&figures.join("cifar_accuracy.svg"), &[vec![cifar_accuracy()?]])?;
    chart::draw(&figures.join("nuclei_ap.svg"), &nuclei_ap()?)?;
    let results = workspace_root().join("docs/results/weight_length.jsonl");
    chart::draw(&figures.join("weight_length.svg"), &[weight_length(&results)?])
}

/// Accuracy against the batch size, a line for each norm.
fn cifar_accuracy() -> Result<Panel, String> {
    let cells = cifar::accuracy_by_batch(&cifar::results_folder())?;
    let series = cifar::NORMS.map(|norm| {
        let point = |batch: &&str| {
            let runs = cells.get(&(*batch, norm))?;
            Some(over_seeds(batch.parse::<f64>().ok()?.log2(), runs))
        };
        Series { name: full_name(norm), points: cifar::BATCHES.iter().filter_map(point).collect() }
    });
    Ok(Panel {
        title: "ResNet-20, three epochs of 10,000 images".to_owned(),
        x_label: "batch size",
        y_label: "test accuracy, %",
        x: -0.2..5.2,
        y: 0.0..70.0,
        x_text: |x| format!("{:.0}", x.exp2()),
        y_text: |y| format!("{y:.0}"),
        has_markers: true,
        series: series.into(),
    })
}

/// Box AP above mask AP, batch 1 beside batch 2, against images seen.
fn nuclei_ap() -> Result<Vec<Vec<Panel>>, String> {
    let panel = |key: &str, what: &str, batch: usize| -> Result<Panel, String> {
        let series = nuclei::NORMS.map(|norm| -> Result<Series, String> {
            let points = nuclei_points(key, norm, batch)?;
            Ok(Series { name: full_name(norm), points })
        });
        Ok(Panel {
            title: format!("{what}, batch {batch}"),
            x_label: "training images seen (531 are an epoch)",
            y_label: "AP, points",
            x: 0.0..850.0,
            y: 0.0..32.0,
            x_text: |x| format!("{x:.0}"),
            y_text: |y| format!("{y:.0}"),
            has_markers: true,
            series: series.into_iter().collect::<Result<_, String>>()?,
        })
    };
    let row =
        |key, what| nuclei::BATCHES.iter().map(|batch| panel(key, what, *batch)).collect::<Result<Vec<_>, String>>();
    Ok(vec![row("bbox_ap", "Boxes")?, row("segm_ap", "Masks")?])
}

fn nuclei_points(key: &str, norm: &str, batch: usize) -> Result<Vec<Point>, String> {
    let mut by_images: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for run in nuclei::runs().filter(|run| run.norm == norm && run.batch == batch) {
        let file = run.file(&nuclei::results_folder());
        for line in read_lines(&file)? {
            let images = number(&line, "images", &file)? as u64;
            by_images.entry(images).or_default().push(100.0 * number(&line, key, &file)?);
        }
    }
    Ok(by_images.into_iter().map(|(images, runs)| over_seeds(images as f64, &runs)).collect())
}

/// The gradient's part along the weight, and the weight's length.
fn weight_length(results: &Path) -> Result<Vec<Panel>, String> {
    let lines = read_lines(results)?;
    let mut names: Vec<&str> = lines.iter().filter_map(|line| line["norm"].as_str()).collect();
    names.dedup();
    let series = |key: &str, scale: fn(f64) -> f64| {
        let one = |name: &&str| -> Result<Series, String> {
            let own = lines.iter().filter(|line| line["norm"] == *name);
            let point = |line: &Value| -> Result<Point, String> {
                let y = scale(number(line, key, results)?);
                Ok(Point { x: number(line, "step", results)?, y, low: y, high: y })
            };
            Ok(Series { name: (*name).to_owned(), points: own.map(point).collect::<Result<_, String>>()? })
        };
        names.iter().map(one).collect::<Result<Vec<_>, String>>()
    };
    let panel =
        |title: &str, y_label: &'static str, y: Range<f64>, y_text: fn(&f64) -> String, series: Vec<Series>| Panel {
            title: title.to_owned(),
            x_label: "training step",
            y_label,
            x: 0.0..600.0,
            y,
            x_text: |x| format!("{x:.0}"),
            y_text,
            has_markers: false,
            series,
        };
    Ok(vec![
        panel(
            "The gradient's part along the weight",
            "|<dL/dw, w>| / (|dL/dw| |w|)",
            -7.0..0.0,
            |y| format!("1e{y:.0}"),
            series("along_weight", |value: f64| value.max(1e-7).log10())?,
        ),
        panel(
            "The weight's length",
            "|w| / |w at the start|",
            1.0..1.1,
            |y| format!("{y:.2}"),
            series("length", |value: f64| value)?,
        ),
    ])
}

fn over_seeds(x: f64, runs: &[f64]) -> Point {
    let (y, low, high) = spread(runs);
    Point { x, y, low, high }
}

fn full_name(norm: &str) -> String {
    match norm {
        "bn" => "batch norm",
        "gn" => "group norm",
        "cbn" => "CBN, paper",
        "cbn-published" => "CBN, published",
        "cbn-through-weight" => "CBN, through weight",
        "cbn-exact" => "CBN, exact (512), through weight",
        _ => norm,
    }
    .to_owned()
}
