//! Charts as SVG: sizes in the units of a 480 x 270 view box, colours by the page's CSS classes `s0` to `s7`.

use std::fmt::Write;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 468.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 230.0;
/// Tick marks that an axis has at most.
const MAX_TICKS: f64 = 6.0;
/// Colours of the page.
pub(crate) const NUM_COLORS: usize = 8;

/// A line with one point per x.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Ascending x.
    pub(crate) points: Vec<(f64, f64)>,
    /// x, lowest, highest: a shadow behind the line.
    pub(crate) band: Vec<(f64, f64, f64)>,
}

/// Lines over a common x.
#[derive(Debug, Clone, Default)]
pub(crate) struct LineChart {
    pub(crate) x_label: &'static str,
    pub(crate) y_label: &'static str,
    pub(crate) series: Vec<Series>,
    /// Both axes run from 0 to 1.
    pub(crate) is_unit_square: bool,
    pub(crate) has_diagonal: bool,
    /// Dashed lines at these x.
    pub(crate) marks: Vec<f64>,
}

/// A linear axis from data to the view box.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    step: f64,
}

impl Axis {
    fn new([low, high]: [f64; 2], [from, to]: [f64; 2]) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let step = nice_step((high - low) / MAX_TICKS);
        Self { low, high, from, to, step }
    }

    /// The same, but ending on a tick.
    fn rounded(self) -> Self {
        Self { high: (self.high / self.step - 1e-9).ceil() * self.step, ..self }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let first = (self.low / self.step - 1e-9).ceil() as i64;
        (first..).map(|at| at as f64 * self.step).take_while(|tick| *tick <= self.high + self.step * 1e-6)
    }
}

/// 1, 2 or 5 times a power of ten, at least as large as `raw`.
fn nice_step(raw: f64) -> f64 {
    let power = 10.0_f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= raw * (1.0 - 1e-9))
        .unwrap_or(raw)
}

/// A number with as many digits as a person reads.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 => 2,
        size => (2 - size.log10().floor() as i32).clamp(3, 8) as usize,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

impl LineChart {
    /// The chart; none if there is no point to draw.
    pub(crate) fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let (x_min, x_max) = bounds(points().map(|(x, _)| x))?;
        let (_, y_max) = bounds(points().map(|(_, y)| y))?;
        let (x_range, y_range) =
            if self.is_unit_square { ([0.0, 1.0], [0.0, 1.0]) } else { ([x_min, x_max], [0.0, y_max.max(1e-9)]) };
        let mut x = Axis::new(x_range, [LEFT, RIGHT]);
        if !self.is_unit_square {
            // Iterations and epochs are counted in ones.
            x.step = x.step.max(1.0);
        }
        let y = Axis::new(y_range, [BOTTOM, TOP]).rounded();
        let mut svg = open(&format!("{} over {}: {}", self.y_label, self.x_label, self.names()));
        axes(&mut svg, &x, &y, self.x_label, self.y_label);
        for mark in self.marks.iter().filter(|mark| (x.low..=x.high).contains(*mark)) {
            let at = x.place(*mark);
            let _ = write!(svg, r#"<line class="mark" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{BOTTOM}"/>"#);
        }
        if self.has_diagonal {
            let _ = write!(svg, r#"<line class="mark" x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{TOP}"/>"#);
        }
        for (at, series) in self.series.iter().enumerate() {
            draw(&mut svg, series, at % NUM_COLORS, &x, &y);
        }
        self.tooltips(&mut svg, &x);
        svg.push_str("</svg>");
        Some(svg)
    }

    fn names(&self) -> String {
        self.series.iter().map(|series| series.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// A transparent column for each x of any series, which tells its numbers where the pointer rests.
    fn tooltips(&self, svg: &mut String, x: &Axis) {
        let mut places: Vec<f64> =
            self.series.iter().flat_map(|series| series.points.iter().map(|(x, _)| *x)).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let edge = |a: f64, b: f64| x.place((a + b) / 2.0);
        for (at, &place) in places.iter().enumerate() {
            let from = if at == 0 { LEFT } else { edge(places[at - 1], place) };
            let to = places.get(at + 1).map_or(RIGHT, |&next| edge(place, next));
            let mut text = format!("{} {}", self.x_label, number(place));
            for series in &self.series {
                let value = series.points.binary_search_by(|(x, _)| x.total_cmp(&place)).map(|at| series.points[at].1);
                if let Ok(value) = value {
                    let _ = write!(text, "\n{} {}", escape(&series.name), number(value));
                }
            }
            let (width, height) = ((to - from).max(0.5), BOTTOM - TOP);
            let _ = write!(
                svg,
                r#"<rect class="hit" x="{from:.1}" y="{TOP}" width="{width:.1}" height="{height}"><title>{text}</title></rect>"#
            );
        }
    }
}

/// Horizontal bars, each with its text.
pub(crate) fn bars(label: &str, rows: &[(String, f64, String)]) -> Option<String> {
    // The longest name, at a phone's letters.
    const NAME: f64 = 212.0;
    const ROW: f64 = 30.0;
    let most = rows.iter().map(|(_, value, _)| *value).fold(0.0, f64::max).max(1e-9);
    let height = ROW * rows.len() as f64 + 8.0;
    let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#, escape(label));
    for (at, (name, value, text)) in rows.iter().enumerate() {
        let (top, width) = (4.0 + ROW * at as f64, (value.max(0.0) / most * 150.0).max(1.0));
        let middle = top + 19.0;
        let after = NAME + width + 8.0;
        let _ = write!(
            svg,
            r#"<text class="end" x="{}" y="{middle}">{}</text><rect class="f0" x="{NAME}" y="{:.1}" width="{width:.1}" height="18" rx="2"><title>{} {}</title></rect><text x="{after:.1}" y="{middle}">{}</text>"#,
            NAME - 8.0,
            escape(name),
            top + 5.0,
            escape(name),
            escape(text),
            escape(text)
        );
    }
    svg.push_str("</svg>");
    (!rows.is_empty()).then_some(svg)
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

fn open(label: &str) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#, escape(label))
}

fn axes(svg: &mut String, x: &Axis, y: &Axis, x_label: &str, y_label: &str) {
    for tick in y.ticks() {
        let at = y.place(tick);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1}" y2="{at:.1}"/><text class="end" x="{}" y="{:.1}">{}</text>"#,
            LEFT - 6.0,
            at + 4.0,
            number(tick)
        );
    }
    for tick in x.ticks() {
        let at = x.place(tick);
        let _ = write!(svg, r#"<text class="mid" x="{at:.1}" y="{}">{}</text>"#, BOTTOM + 16.0, number(tick));
    }
    let _ = write!(
        svg,
        r#"<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/><text class="mid name" x="{}" y="{}">{}</text><text class="mid name" transform="translate(11 {}) rotate(-90)">{}</text>"#,
        (LEFT + RIGHT) / 2.0,
        HEIGHT - 6.0,
        escape(x_label),
        (TOP + BOTTOM) / 2.0,
        escape(y_label)
    );
}

fn draw(svg: &mut String, series: &Series, color: usize, x: &Axis, y: &Axis) {
    let clip = |value: f64| y.place(value.clamp(y.low, y.high));
    if !series.band.is_empty() {
        let top = series.band.iter().map(|&(at, _, high)| format!("{:.1},{:.1}", x.place(at), clip(high)));
        let bottom = series.band.iter().rev().map(|&(at, low, _)| format!("{:.1},{:.1}", x.place(at), clip(low)));
        let points: Vec<String> = top.chain(bottom).collect();
        let _ = write!(svg, r#"<polygon class="band f{color}" points="{}"/>"#, points.join(" "));
    }
    // A value that is no number interrupts the line.
    for part in series.points.split(|(_, value)| !value.is_finite()).filter(|part| !part.is_empty()) {
        let points: Vec<String> =
            part.iter().map(|&(at, value)| format!("{:.1},{:.1}", x.place(at), clip(value))).collect();
        let _ = write!(svg, r#"<polyline class="s{color}" points="{}"/>"#, points.join(" "));
    }
    if series.points.len() <= 30 {
        for &(at, value) in series.points.iter().filter(|(_, value)| value.is_finite()) {
            let _ = write!(svg, r#"<circle class="f{color}" cx="{:.1}" cy="{:.1}" r="3"/>"#, x.place(at), clip(value));
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_numbers_short() {
        assert_eq!([0.13, 1.0, 2.3, 60.0].map(nice_step), [0.2, 1.0, 5.0, 100.0]);
        assert_eq!([0.0, 1.5, 0.02, 1234.4, 0.000_025].map(number), ["0", "1.5", "0.02", "1234", "0.000025"]);
    }

    #[test]
    fn points_lie_where_the_axes_say() {
        let series = Series { name: "a<b".to_owned(), points: vec![(0.0, 0.0), (10.0, 4.0)], band: Vec::new() };
        let chart = LineChart { x_label: "iteration", y_label: "loss", series: vec![series], ..LineChart::default() };
        let svg = chart.svg().unwrap();
        // From the bottom left to the top right corner: the axis ends at 4, a tick.
        assert!(svg.contains(r#"points="58.0,230.0 468.0,12.0""#), "{svg}");
        assert!(svg.contains("a&lt;b 4") && !svg.contains("a<b"), "{svg}");
        assert!(LineChart::default().svg().is_none());
    }

    #[test]
    fn what_is_no_number_is_a_gap() {
        let points = vec![(0.0, 1.0), (1.0, 1.0), (2.0, f64::NAN), (3.0, 1.0)];
        let chart = LineChart { series: vec![Series { points, ..Series::default() }], ..LineChart::default() };
        let svg = chart.svg().unwrap();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(!svg.contains("NaN,") && !svg.contains(",NaN"), "{svg}");
    }
}
