//! COCO numbers as text or JSON.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use cbn_detection::eval::{Summary, class_table, score_table};

/// Numbers by kind of overlap and name.
pub type Metrics = BTreeMap<String, BTreeMap<String, Option<f64>>>;

/// The numbers of each summary by name.
pub fn metrics(summaries: &[Summary]) -> Metrics {
    summaries
        .iter()
        .map(|summary| (summary.iou_type.name().to_owned(), summary.named().into_iter().collect()))
        .collect()
}

/// Prints tables, or one JSON object with the kinds of overlap as keys.
pub fn print(summaries: &[Summary], as_json: bool) -> Result<()> {
    if as_json {
        let by_kind: BTreeMap<&str, &Summary> =
            summaries.iter().map(|summary| (summary.iou_type.name(), summary)).collect();
        println!("{}", serde_json::to_string_pretty(&by_kind).context("the scores have no JSON form")?);
    } else {
        print!("{}\n{}", score_table(summaries), class_table(summaries));
    }
    Ok(())
}

/// The four numbers that matter most, on one line.
pub fn short(metrics: &Metrics) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let parts: Vec<String> = metrics
        .iter()
        .map(|(kind, values)| {
            let value = |name: &str| number(values.get(name).copied().flatten());
            format!("{kind} AP {} AP50 {}", value("AP"), value("AP50"))
        })
        .collect();
    parts.join("  ")
}

/// A table of evaluations, a row for each: its iteration, and the three APs of each kind of overlap. Nothing if there was none.
pub fn history(evaluations: &[(usize, Metrics)]) -> String {
    let Some((_, first)) = evaluations.first() else { return String::new() };
    let columns: Vec<(&str, &str)> =
        first.keys().flat_map(|kind| ["AP", "AP50", "AP75"].map(|name| (kind.as_str(), name))).collect();
    let head: String = columns.iter().map(|(kind, name)| format!("{:>11}", format!("{kind} {name}"))).collect();
    let row = |(iteration, metrics): &(usize, Metrics)| {
        let value = |(kind, name): &(&str, &str)| metrics.get(*kind)?.get(*name).copied().flatten();
        let cell = |column| value(column).map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        let cells: String = columns.iter().map(|column| format!("{:>11}", cell(column))).collect();
        format!("{iteration:>9}{cells}\n")
    };
    format!("iteration{head}\n{}", evaluations.iter().map(row).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_has_a_row_for_each_evaluation() {
        let metrics = |ap| {
            let bbox = BTreeMap::from([("AP".to_owned(), Some(ap)), ("AP50".to_owned(), None)]);
            BTreeMap::from([("bbox".to_owned(), bbox)])
        };
        let expected = "iteration    bbox AP  bbox AP50  bbox AP75\n      133      0.500          -          -\n     1266      0.750          -          -\n";
        assert_eq!(history(&[(133, metrics(0.5)), (1266, metrics(0.75))]), expected);
        assert_eq!(history(&[]), "");
    }

    #[test]
    fn the_short_form_names_what_is_missing() {
        let bbox = BTreeMap::from([("AP".to_owned(), Some(0.5)), ("AP50".to_owned(), None)]);
        assert_eq!(short(&BTreeMap::from([("bbox".to_owned(), bbox)])), "bbox AP 0.500 AP50 -");
    }
}
