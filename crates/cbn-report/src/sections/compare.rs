//! Several runs beside the first.

use std::collections::{BTreeMap, BTreeSet};

use cbn_detection::eval::{Analysis, Interval};

use super::{BOOTSTRAP_SEED, ReportConfig, curves, facts, footer, scores};
use crate::Run;
use crate::page::{Block, Cell, Page, Section, Table, Tile};

pub(super) fn page(runs: &[Run], config: &ReportConfig) -> Page {
    let mut sections = vec![differences(runs, config), curves::section(runs)];
    sections.extend(classes(runs));
    sections.push(recipes(runs));
    sections.push(facts::timing(runs));
    // That recipes are the same is said in words alone.
    sections.retain(|section| !section.blocks.is_empty() || section.id == "recipe");
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    Page {
        title: names.join(" and "),
        subtitle: format!("{} runs beside each other; differences are to {}.", runs.len(), runs[0].name),
        tiles: runs.iter().filter_map(tile).collect(),
        sections,
        footer: footer(&runs[0]),
    }
}

fn tile(run: &Run) -> Option<Tile> {
    let summary = &run.results.as_ref()?.main().summary;
    let value = |ap: Option<f64>| ap.map_or_else(|| "\u{2013}".to_owned(), |ap| format!("{ap:.3}"));
    let note = format!("{} AP, {} at IoU 0.50", scores::word(summary.iou_type), value(summary.ap50));
    Some(Tile { label: run.name.clone(), value: value(summary.ap), note })
}

/// The analysis of a run for a kind of overlap.
fn analysis<'a>(run: &'a Run, like: &Analysis) -> Option<&'a Analysis> {
    run.results.as_ref()?.analyses.iter().find(|analysis| analysis.summary.iou_type == like.summary.iou_type)
}

/// Whether two evaluations are of the same images; otherwise their scores say nothing about each other.
fn is_comparable(first: &Analysis, second: &Analysis) -> bool {
    let ids = |analysis: &Analysis| -> BTreeSet<u64> { analysis.images.iter().map(|image| image.image_id).collect() };
    ids(first) == ids(second)
}

/// The runs whose last evaluation was of other images than the first run's, told in words.
fn other_images(runs: &[Run]) -> String {
    let Some(base) = runs[0].results.as_ref() else { return String::new() };
    let size = |run: &Run| run.results.as_ref().map_or(0, |results| results.main().images.len());
    let others: Vec<String> = runs[1..]
        .iter()
        .filter(|run| run.results.as_ref().is_some_and(|results| !is_comparable(base.main(), results.main())))
        .map(|run| format!("{} on {} images", run.name, size(run)))
        .collect();
    if others.is_empty() {
        return String::new();
    }
    let (first, num_images) = (&runs[0].name, size(&runs[0]));
    format!(
        "{first} was evaluated on {num_images} images, {}, which are not the same images: no difference is computed. Test the checkpoints on \
         the same images (cbn test) to compare them.",
        others.join(", ")
    )
}

fn differences(runs: &[Run], config: &ReportConfig) -> Section {
    let mut rows = Vec::new();
    let first = runs[0].results.as_ref().map_or(&[][..], |results| &results.analyses);
    for base in first {
        for (at, run) in runs.iter().enumerate() {
            let Some(analysis) = analysis(run, base) else { continue };
            let is_comparable = is_comparable(base, analysis);
            let intervals = (at > 0)
                .then(|| base.samples.difference_intervals(&analysis.samples, config.num_bootstrap, BOOTSTRAP_SEED));
            for (metric, name) in ["AP", "AP50", "AP75"].into_iter().enumerate() {
                let value =
                    |analysis: &Analysis| [analysis.summary.ap, analysis.summary.ap50, analysis.summary.ap75][metric];
                let difference = value(analysis).zip(value(base)).map(|(ours, base)| ours - base);
                let difference = difference.filter(|_| at > 0 && is_comparable);
                let interval = intervals.flatten().and_then(|intervals| intervals[metric]);
                let measure = format!("{} {name}", scores::word(base.summary.iou_type));
                let verdict = match interval {
                    Some(interval) => verdict(interval),
                    None if is_comparable => "",
                    None => "other images",
                };
                rows.push((measure, run, value(analysis), difference, interval, verdict));
            }
        }
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let rows: Vec<Vec<Cell>> = rows
        .into_iter()
        .map(|(measure, run, value, difference, interval, verdict)| {
            let signed = difference.map_or_else(String::new, |difference| format!("{difference:+.3}"));
            vec![
                Cell::text(measure),
                Cell::text(&run.name),
                Cell::number(value, 3),
                Cell { text: signed, number: difference, is_number: true },
                Cell::text(interval.map_or_else(String::new, range)),
                Cell::text(verdict),
            ]
        })
        .collect();
    let columns = ["measure", "run", "value", "difference", "95 % interval", "says"].map(str::to_owned).to_vec();
    let table = Table {
        caption: "Scores of the last evaluations".to_owned(),
        columns,
        rows,
        is_sortable: true,
        is_folded: false,
    };
    let intro = format!(
        "Intervals of the difference: {} draws of the validation images with replacement, the same for both runs. They tell what other images \
         would change, not what another seed of the training would.",
        config.num_bootstrap
    );
    let intro = match other_images(runs) {
        others if others.is_empty() => intro,
        others => format!("{others} {intro}"),
    };
    let blocks = if table.rows.is_empty() { Vec::new() } else { vec![Block::Table(table)] };
    Section { id: "scores", title: "Scores", intro, blocks }
}

fn range(interval: Interval) -> String {
    format!("{:+.3} to {:+.3}", interval.lower, interval.upper)
}

fn verdict(interval: Interval) -> &'static str {
    if interval.lower > 0.0 {
        "better"
    } else if interval.upper < 0.0 {
        "worse"
    } else {
        "undecided"
    }
}

/// AP of each class in each run.
fn classes(runs: &[Run]) -> Option<Section> {
    let base = runs[0].results.as_ref()?.main();
    let others: Vec<Option<&Analysis>> = runs.iter().map(|run| analysis(run, base)).collect();
    let kind = scores::word(base.summary.iou_type);
    let rows = base.classes.iter().map(|class| {
        let mut row = vec![Cell::text(&class.name), Cell::count(class.num_objects)];
        for (at, other) in others.iter().enumerate() {
            let same =
                other.and_then(|other| other.classes.iter().find(|other| other.category_id == class.category_id));
            let ap = same.and_then(|same| same.ap);
            row.push(Cell::number(ap, 3));
            if at > 0 {
                let is_comparable = other.is_some_and(|other| is_comparable(base, other));
                let difference = ap.zip(class.ap).map(|(ap, base)| ap - base).filter(|_| is_comparable);
                let text = difference.map_or_else(String::new, |difference| format!("{difference:+.3}"));
                row.push(Cell { text, number: difference, is_number: true });
            }
        }
        row
    });
    let mut columns = vec!["class".to_owned(), "objects".to_owned()];
    for (at, run) in runs.iter().enumerate() {
        columns.push(format!("{kind} AP, {}", run.name));
        if at > 0 {
            columns.push("difference".to_owned());
        }
    }
    let table =
        Table { caption: "Classes".to_owned(), columns, rows: rows.collect(), is_sortable: true, is_folded: false };
    Some(Section { id: "classes", title: "Classes", intro: String::new(), blocks: vec![Block::Table(table)] })
}

/// The entries of the recipes that are not the same in all runs.
fn recipes(runs: &[Run]) -> Section {
    let plans: Vec<BTreeMap<String, String>> = runs
        .iter()
        .map(|run| {
            let mut values = Vec::new();
            facts::flatten(run.plan(), "", &mut values);
            values.into_iter().collect()
        })
        .collect();
    let keys: BTreeSet<&String> = plans.iter().flat_map(BTreeMap::keys).collect();
    let mut rows = Vec::new();
    for key in keys {
        let values: Vec<Option<&String>> = plans.iter().map(|plan| plan.get(key)).collect();
        if values.windows(2).any(|pair| pair[0] != pair[1]) {
            let cells = values.into_iter().map(|value| Cell::text(value.map_or("", String::as_str)));
            rows.push([Cell::text(key)].into_iter().chain(cells).collect());
        }
    }
    let intro =
        if rows.is_empty() { "The recipes are the same." } else { "Values that differ; all others are the same." };
    let mut columns = vec!["key".to_owned()];
    columns.extend(runs.iter().map(|run| run.name.clone()));
    let table = Table { caption: "What differs".to_owned(), columns, rows, ..Table::default() };
    let blocks = if table.rows.is_empty() { Vec::new() } else { vec![Block::Table(table)] };
    Section { id: "recipe", title: "Recipes", intro: intro.to_owned(), blocks }
}
