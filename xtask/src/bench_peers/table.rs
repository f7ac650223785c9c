//! Numbers side by side.

use super::server::{Answer, Server};

/// One line of a table; lower is better.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub ours: f64,
    pub peer: f64,
    /// Which peer this was, and what ours and it told.
    pub remark: String,
}

impl Row {
    /// From the answers of our side, which comes first, and the peers, of whom the fastest counts.
    pub fn of_best(what: impl Into<String>, servers: &[Server], answers: &[Answer]) -> Self {
        let ours = answers[0].milliseconds;
        let peers = answers.iter().zip(servers).skip(1);
        let best = peers.min_by(|(a, _), (b, _)| a.milliseconds.total_cmp(&b.milliseconds));
        let (best, server) = best.expect("there is a peer");
        let mut remark = server.label.clone();
        if !best.note.is_empty() {
            remark += &format!("; {} and {}", answers[0].note, best.note);
        }
        Self { what: what.into(), ours, peer: best.milliseconds, remark }
    }

    pub fn ratio(&self) -> f64 {
        self.peer / self.ours
    }
}

/// Rows of one unit, and what is checked.
pub struct Table {
    pub title: String,
    pub unit: &'static str,
    pub rows: Vec<Row>,
    /// What `--check-ratio` looks at; shown below the rows.
    pub totals: Vec<Row>,
    /// Lines of text below the table.
    pub notes: Vec<String>,
}

impl Table {
    pub fn new(title: impl Into<String>, unit: &'static str, rows: Vec<Row>) -> Self {
        Self { title: title.into(), unit, rows, totals: Vec::new(), notes: Vec::new() }
    }

    /// With the sum over all rows as its total.
    pub fn with_sum(mut self) -> Self {
        let sum = |side: fn(&Row) -> f64| self.rows.iter().map(side).sum();
        let worst = self.rows.iter().min_by(|a, b| a.ratio().total_cmp(&b.ratio()));
        let remark = worst.map_or_else(String::new, |row| format!("worst ratio {:.2}, {}", row.ratio(), row.what));
        self.totals.push(Row { what: "sum".into(), ours: sum(|row| row.ours), peer: sum(|row| row.peer), remark });
        self
    }

    pub fn markdown(&self) -> String {
        let mut text =
            format!("### {}\n\n| | ours, {unit} | peer, {unit} | peer / ours | |\n", self.title, unit = self.unit);
        text += "| --- | ---: | ---: | ---: | --- |\n";
        let plain = self.rows.iter().map(|row| (row, ""));
        for (row, bold) in plain.chain(self.totals.iter().map(|row| (row, "**"))) {
            let Row { what, ours, peer, remark } = row;
            text += &format!("| {bold}{what}{bold} | {ours:.1} | {peer:.1} | {:.2} | {remark} |\n", row.ratio());
        }
        if !self.notes.is_empty() {
            text += &format!("\n- {}\n", self.notes.join("\n- "));
        }
        text
    }

    /// Totals whose ratio is lower, with it.
    pub fn below(&self, ratio: f64) -> impl Iterator<Item = (String, f64)> {
        let slow = self.totals.iter().filter(move |total| total.ratio() < ratio);
        slow.map(|total| (format!("{}, {}", self.title, total.what), total.ratio()))
    }
}

/// The middle value; of an even number the mean of the two in the middle.
///
/// # Panics
///
/// If there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(what: &str, ours: f64, peer: f64) -> Row {
        Row { what: what.into(), ours, peer, remark: String::new() }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), 3.0);
    }

    #[test]
    fn sums_are_checked_and_the_worst_row_is_named() {
        let table = Table::new("t", "ms", vec![row("a", 1.0, 4.0), row("b", 3.0, 2.0)]).with_sum();
        assert_eq!(table.totals[0].remark, "worst ratio 0.67, b");
        assert_eq!(table.below(1.6).collect::<Vec<_>>(), [("t, sum".to_owned(), 1.5)]);
        assert_eq!(table.below(1.5).count(), 0);
    }

    #[test]
    fn a_table_is_markdown() {
        let text = Table::new("t", "ms", vec![row("a", 1.0, 4.0)]).markdown();
        assert_eq!(text.lines().nth(4).unwrap(), "| a | 1.0 | 4.0 | 4.00 |  |");
    }
}
