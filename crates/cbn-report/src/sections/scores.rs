//! The last evaluation.

use cbn_detection::eval::{Analysis, IouType};

use super::{BOOTSTRAP_SEED, ReportConfig};
use crate::chart::{LineChart, Series, bars};
use crate::page::{Block, Cell, Figure, Section, Table};
use crate::run::Results;

/// Classes that have a curve of their own, if there are no more.
const MAX_CLASS_CURVES: usize = 8;

pub(super) fn word(kind: IouType) -> &'static str {
    match kind {
        IouType::Bbox => "box",
        IouType::Segm => "mask",
    }
}

pub(super) fn classes(results: &Results, config: &ReportConfig) -> Section {
    let columns = results.analyses.iter().flat_map(|analysis| {
        let kind = word(analysis.summary.iou_type);
        ["AP", "AP50", "AP75"].map(|name| format!("{kind} {name}"))
    });
    let names = ["class", "objects", "detections"].map(str::to_owned);
    let rows = results.main().classes.iter().enumerate().map(|(at, class)| {
        let scores = results.analyses.iter().flat_map(|analysis| {
            let class = &analysis.classes[at];
            [class.ap, class.ap50, class.ap75].map(|value| Cell::number(value, 3))
        });
        let first = [Cell::text(&class.name), Cell::count(class.num_objects), Cell::count(class.num_detections)];
        let last = Cell::number(class.calibration_error, 3);
        first.into_iter().chain(scores).chain([last]).collect()
    });
    let classes = Table {
        caption: "Classes".to_owned(),
        columns: names.into_iter().chain(columns).chain(["calibration error".to_owned()]).collect(),
        rows: rows.collect(),
        is_sortable: true,
        is_folded: false,
    };
    let intro = format!(
        "The last evaluation: {} detections on {} validation images. Intervals hold 95 % of {} draws of the images with \
         replacement.",
        results.detections.len(),
        results.main().images.len(),
        config.num_bootstrap
    );
    Section {
        id: "scores",
        title: "Scores",
        intro,
        blocks: vec![Block::Table(numbers(results, config)), Block::Table(classes)],
    }
}

/// COCO's twelve numbers, a row for each kind of overlap.
fn numbers(results: &Results, config: &ReportConfig) -> Table {
    let mut columns = vec![String::new()];
    columns.extend(results.main().summary.named().into_iter().map(|(name, _)| name));
    columns.insert(2, "AP 95 %".to_owned());
    let row = |analysis: &Analysis| {
        let mut row = vec![Cell::text(word(analysis.summary.iou_type))];
        row.extend(analysis.summary.named().into_iter().map(|(_, value)| Cell::number(value, 3)));
        let [interval, ..] = analysis.samples.intervals(config.num_bootstrap, BOOTSTRAP_SEED);
        let text = interval.map_or_else(|| "\u{2013}".to_owned(), |i| format!("{:.3} to {:.3}", i.lower, i.upper));
        row.insert(2, Cell::text(text));
        row
    };
    let rows = results.analyses.iter().map(row).collect();
    Table { caption: "COCO's numbers".to_owned(), columns, rows, ..Table::default() }
}

fn curve(name: &str, precision: &[f64]) -> Option<Series> {
    let points: Vec<(f64, f64)> = precision.iter().enumerate().map(|(at, &value)| (at as f64 / 100.0, value)).collect();
    (!points.is_empty()).then(|| Series { name: name.to_owned(), points, band: Vec::new() })
}

fn precision_chart(series: Vec<Series>) -> LineChart {
    LineChart { x_label: "recall", y_label: "precision", series, is_unit_square: true, ..LineChart::default() }
}

pub(super) fn precision(results: &Results) -> Section {
    let mut figures = Vec::new();
    for analysis in &results.analyses {
        let kind = word(analysis.summary.iou_type);
        let series = analysis.curves.iter().filter_map(|line| curve(&line.name, &line.precision)).collect();
        let title = format!("Precision over recall, {kind}");
        figures.extend(Figure::lines(&title, &precision_chart(series), "Mean over classes; the area is the AP."));
    }
    let classes = &results.main().classes;
    if (2..=MAX_CLASS_CURVES).contains(&classes.len()) {
        let series = classes.iter().filter_map(|class| curve(&class.name, &class.precision50)).collect();
        let title = format!("Precision of each class, {}", word(results.main().summary.iou_type));
        figures.extend(Figure::lines(&title, &precision_chart(series), "At IoU 0.50."));
    }
    let point = results.main().operating_point;
    let intro = format!(
        "F1 ({}, IoU 0.50) is largest, {:.3}, where scores are cut at {:.2}: {:.0} % of what is reported is right, {:.0} % of the objects are found.",
        word(results.main().summary.iou_type),
        point.f1,
        point.score,
        100.0 * point.precision,
        100.0 * point.recall
    );
    section("precision", "Precision and recall", intro, figures)
}

pub(super) fn errors(results: &Results) -> Section {
    let figure = |analysis: &Analysis| {
        let rows: Vec<(String, f64, String)> = analysis
            .errors
            .iter()
            .map(|kind| {
                let count = kind.count.map_or_else(String::new, |count| format!(" ({count})"));
                (kind.name.to_owned(), kind.delta_ap, format!("{:.3}{count}", kind.delta_ap))
            })
            .collect();
        let title = format!("Errors, {}", word(analysis.summary.iou_type));
        let svg = bars(&title, &rows)?;
        let note = "Gain in AP50 if they were mended; in brackets how many there are.".to_owned();
        Some(Figure { title, legend: Vec::new(), svg, note })
    };
    let intro = "TIDE: what each kind of error costs. \u{201c}Badly placed\u{201d} overlaps by 0.1 to 0.5, \u{201c}background\u{201d} by less.";
    section("errors", "Errors", intro.to_owned(), results.analyses.iter().filter_map(figure).collect())
}

pub(super) fn calibration(results: &Results) -> Section {
    let figure = |analysis: &Analysis| {
        let calibration = &analysis.calibration;
        let points: Vec<(f64, f64)> = calibration.bins.iter().map(|bin| (bin.confidence, bin.accuracy)).collect();
        let series = vec![Series { name: "share of correct".to_owned(), points, band: Vec::new() }];
        let chart = LineChart {
            x_label: "score",
            y_label: "share of correct detections",
            series,
            is_unit_square: true,
            has_diagonal: true,
            ..LineChart::default()
        };
        let kind = word(analysis.summary.iou_type);
        let note = format!(
            "Expected calibration error {:.3}, largest {:.3}.",
            calibration.expected_error, calibration.largest_error
        );
        Figure::lines(&format!("Calibration, {kind}"), &chart, &note)
    };
    let intro = "Where scores are probabilities, the line follows the diagonal; below it, they promise too much.";
    section("calibration", "Calibration", intro.to_owned(), results.analyses.iter().filter_map(figure).collect())
}

fn section(id: &'static str, title: &'static str, intro: String, figures: Vec<Figure>) -> Section {
    let blocks = if figures.is_empty() { Vec::new() } else { vec![Block::Figures(figures)] };
    Section { id, title, intro, blocks }
}
