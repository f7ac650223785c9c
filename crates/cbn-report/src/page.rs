//! The parts that pages are made of, and the template that shows them.

use askama::Template;

use crate::chart::{LineChart, NUM_COLORS};

/// A page.
#[derive(Template, Debug)]
#[template(path = "report.html")]
pub(crate) struct Page {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) sections: Vec<Section>,
    pub(crate) footer: String,
}

/// A number that everybody looks for first.
#[derive(Debug)]
pub(crate) struct Tile {
    pub(crate) label: String,
    pub(crate) value: String,
    pub(crate) note: String,
}

#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// What is shown, in a sentence or two.
    pub(crate) intro: String,
    pub(crate) blocks: Vec<Block>,
}

#[derive(Debug)]
pub(crate) enum Block {
    Figures(Vec<Figure>),
    Table(Table),
    Pictures(Vec<Picture>),
}

#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) title: String,
    /// Colour and name.
    pub(crate) legend: Vec<(usize, String)>,
    pub(crate) svg: String,
    pub(crate) note: String,
}

impl Figure {
    /// None if there is nothing to draw.
    pub(crate) fn lines(title: &str, chart: &LineChart, note: &str) -> Option<Self> {
        let names = chart.series.iter().enumerate().map(|(at, series)| (at % NUM_COLORS, series.name.clone()));
        let legend = if chart.series.len() > 1 { names.collect() } else { Vec::new() };
        Some(Self { title: title.to_owned(), legend, svg: chart.svg()?, note: note.to_owned() })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) caption: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Cell>>,
    /// A click on a column's name sorts.
    pub(crate) is_sortable: bool,
    /// Shown when asked for.
    pub(crate) is_folded: bool,
}

impl Table {
    /// Few short columns read better close together.
    fn is_narrow(&self) -> bool {
        self.columns.len() <= 4 && !self.is_folded
    }

    /// Whether any column has a name.
    fn has_head(&self) -> bool {
        self.columns.iter().any(|column| !column.is_empty())
    }

    /// Whether a column holds numbers, which stand to the right.
    fn is_number(&self, column: &usize) -> bool {
        self.rows.first().is_some_and(|row| row.get(*column).is_some_and(|cell| cell.is_number))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// What to sort by; as text if there is none.
    pub(crate) number: Option<f64>,
    pub(crate) is_number: bool,
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), number: None, is_number: false }
    }

    /// "-" where there is nothing to measure.
    pub(crate) fn number(value: Option<f64>, digits: usize) -> Self {
        let text = value.map_or_else(|| "\u{2013}".to_owned(), |value| format!("{value:.digits$}"));
        Self { text, number: value, is_number: true }
    }

    pub(crate) fn count(value: usize) -> Self {
        Self::number(Some(value as f64), 0)
    }

    /// What the template writes for sorting.
    pub(crate) fn sort_key(&self) -> String {
        self.number
            .map_or_else(|| if self.is_number { String::new() } else { self.text.clone() }, |value| value.to_string())
    }
}

/// An image twice: with what is there, and with what was found.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) title: String,
    pub(crate) note: String,
    /// Data URIs; none if the image's file could not be used, which the note says.
    pub(crate) panes: Option<[String; 2]>,
}
