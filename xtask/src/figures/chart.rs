//! Panels of lines with markers and ranges, and one legend beside them.

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::*;

const PANEL: (u32, u32) = (360, 280);
const LEGEND_WIDTH: u32 = 230;
/// Okabe and Ito's colours, which people with any colour vision tell apart.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
];

/// A line; the place in a panel decides its colour and marker.
pub struct Series {
    pub name: String,
    pub points: Vec<Point>,
}

/// A value and its range over seeds.
#[derive(Clone, Copy)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub low: f64,
    pub high: f64,
}

/// A pair of axes. Logarithms are taken by who makes the panel; `x_text` and `y_text` write a tick's label.
pub struct Panel {
    pub title: String,
    pub x_label: &'static str,
    pub y_label: &'static str,
    pub x: Range<f64>,
    pub y: Range<f64>,
    pub x_text: fn(&f64) -> String,
    pub y_text: fn(&f64) -> String,
    pub has_markers: bool,
    pub series: Vec<Series>,
}

/// Draws rows of panels with the first one's legend.
///
/// # Errors
///
/// The file cannot be written.
pub fn draw(file: &Path, rows: &[Vec<Panel>]) -> Result<(), String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = columns as u32 * PANEL.0 + LEGEND_WIDTH;
    let root = SVGBackend::new(file, (width, rows.len() as u32 * PANEL.1)).into_drawing_area();
    root.fill(&WHITE).map_err(in_file(file))?;
    let (left, right) = root.split_horizontally(width - LEGEND_WIDTH);
    for (panel, area) in rows.iter().flatten().zip(left.split_evenly((rows.len(), columns))) {
        draw_panel(panel, &area).map_err(in_file(file))?;
    }
    let names = rows.first().and_then(|row| row.first()).map_or(&[][..], |panel| panel.series.as_slice());
    draw_legend(names, &right).map_err(in_file(file))?;
    root.present().map_err(in_file(file))
}

fn in_file<E: Display>(file: &Path) -> impl Fn(E) -> String + '_ {
    move |error| format!("{}: {error}", file.display())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawingError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn draw_panel<'a>(panel: &Panel, area: &Area<'a>) -> Result<(), DrawingError<'a>> {
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(panel.x.clone(), panel.y.clone())?;
    chart
        .configure_mesh()
        .x_desc(panel.x_label)
        .y_desc(panel.y_label)
        .x_labels(7)
        .y_labels(7)
        .max_light_lines(1)
        .x_label_formatter(&panel.x_text)
        .y_label_formatter(&panel.y_text)
        .label_style(("sans-serif", 12))
        .draw()?;
    for (index, series) in panel.series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let line = series.points.iter().map(|point| (point.x, point.y));
        chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
        for point in series.points.iter().filter(|point| point.high > point.low) {
            let ends = [(point.x, point.low), (point.x, point.high)];
            chart.draw_series([PathElement::new(ends, colour.stroke_width(1))])?;
        }
        if panel.has_markers {
            for point in &series.points {
                chart.draw_series([
                    EmptyElement::at((point.x, point.y)) + Polygon::new(marker(index), colour.filled())
                ])?;
            }
        }
    }
    Ok(())
}

/// A polygon around the origin, in pixels: three to eight corners.
fn marker(index: usize) -> Vec<(i32, i32)> {
    let corners = 3 + index % 6;
    let angle = |corner: usize| std::f64::consts::TAU * corner as f64 / corners as f64;
    (0..corners)
        .map(|corner| ((5.0 * angle(corner).sin()).round() as i32, (-5.0 * angle(corner).cos()).round() as i32))
        .collect()
}

fn draw_legend<'a>(series: &[Series], area: &Area<'a>) -> Result<(), DrawingError<'a>> {
    for (index, one) in series.iter().enumerate() {
        let (colour, y) = (COLOURS[index % COLOURS.len()], 44 + 24 * index as i32);
        area.draw(&PathElement::new([(8, y), (36, y)], colour.stroke_width(2)))?;
        let corners: Vec<_> = marker(index).into_iter().map(|(dx, dy)| (22 + dx, y + dy)).collect();
        area.draw(&Polygon::new(corners, colour.filled()))?;
        area.draw(&Text::new(one.name.clone(), (44, y - 7), ("sans-serif", 13)))?;
    }
    Ok(())
}
