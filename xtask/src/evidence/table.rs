//! Tables in Markdown, and the numbers in their cells.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Results by row and column, a number for each seed.
pub type Cells<'a> = BTreeMap<(&'a str, &'a str), Vec<f64>>;

/// A row a line; the first column is called `corner`.
pub fn print(corner: &str, rows: &[&str], columns: &[&str], cells: &Cells<'_>) {
    println!("\n| {corner} | {} |\n| ---: |{}", columns.join(" | "), " ---: |".repeat(columns.len()));
    for row in rows {
        let line = columns
            .iter()
            .map(|column| cells.get(&(row, column)).map_or_else(|| "-".to_owned(), |runs| describe(runs)));
        println!("| {row} | {} |", line.collect::<Vec<_>>().join(" | "));
    }
}

/// Mean, range and number of seeds.
fn describe(runs: &[f64]) -> String {
    let (mean, low, high) = spread(runs);
    if runs.len() == 1 { format!("{mean:.1}") } else { format!("{mean:.1} ({low:.1} to {high:.1}, {})", runs.len()) }
}

/// Mean, least and greatest of one number or more.
pub fn spread(runs: &[f64]) -> (f64, f64, f64) {
    let mean = runs.iter().sum::<f64>() / runs.len() as f64;
    let [low, high] = [f64::min, f64::max].map(|pick| runs.iter().copied().reduce(pick).unwrap_or(mean));
    (mean, low, high)
}

/// The lines of a run's file; none where the run is still to come.
pub fn read_lines(file: &Path) -> Result<Vec<Value>, String> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let fault =
        |message: &dyn std::fmt::Display| format!("{}: {message}; delete the file to train again", file.display());
    let text = fs::read_to_string(file).map_err(|error| fault(&error))?;
    let lines: Vec<Value> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(|error| fault(&error))?;
    if lines.is_empty() { Err(fault(&"it has no line")) } else { Ok(lines) }
}

/// A number of a run's line, which every complete run has.
pub fn number(line: &Value, key: &str, file: &Path) -> Result<f64, String> {
    line[key].as_f64().ok_or_else(|| format!("{}: a line has no {key}; delete the file to train again", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_show_mean_range_and_number() {
        assert_eq!(describe(&[50.0]), "50.0");
        assert_eq!(describe(&[50.0, 53.0, 50.0]), "51.0 (50.0 to 53.0, 3)");
    }

    #[test]
    fn a_result_file_without_a_result_is_an_error() {
        let folder = std::env::temp_dir().join(format!("cbn-evidence-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let file = folder.join("run.jsonl");
        assert_eq!(read_lines(&file), Ok(Vec::new()));
        fs::write(&file, "{\"test_accuracy\": 0.1}\n{\"test_accuracy\": 0.25}\n").expect("it can be written");
        let lines = read_lines(&file).expect("it has lines");
        assert_eq!((lines.len(), number(&lines[1], "test_accuracy", &file)), (2, Ok(0.25)));
        assert!(number(&lines[1], "bbox_ap", &file).is_err());
        for broken in ["", "{\"test_accuracy\": 0."] {
            fs::write(&file, broken).expect("it can be written");
            assert!(read_lines(&file).is_err());
        }
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
