//! Detections drawn over a picture.

use anyhow::Result;
use cbn_detection::eval::CocoDetection;
use cbn_detection::structures::ImageSize;
use font8x8::UnicodeFonts;
use image::imageops::FilterType;
use image::{Rgb, RgbImage};

/// Colours that differ in hue and lightness; classes beyond them start over.
const PALETTE: [[u8; 3]; 8] = [
    [230, 60, 60],
    [50, 140, 230],
    [60, 180, 75],
    [245, 160, 30],
    [150, 80, 200],
    [30, 180, 180],
    [235, 90, 170],
    [140, 140, 30],
];
/// Share of the colour that covers a mask's pixels.
const MASK_OPACITY: f32 = 0.45;
/// Pictures whose longer side is at most half of this are enlarged.
const MIN_SIDE_PX: u32 = 512;
/// Sides of a glyph.
const GLYPH_PX: u32 = 8;

/// What is drawn for one detection.
pub struct Item<'a> {
    pub detection: &'a CocoDetection,
    pub label: String,
    /// Decides the colour.
    pub class: usize,
}

/// The picture with masks, boxes and labels, the first item on top.
///
/// Small pictures are enlarged by a whole factor, so that labels can be read.
pub fn render(picture: &RgbImage, items: &[Item<'_>]) -> Result<RgbImage> {
    let mut canvas = picture.clone();
    for item in items.iter().rev() {
        paint_mask(&mut canvas, item)?;
    }
    let zoom = (MIN_SIDE_PX / canvas.width().max(canvas.height()).max(1)).max(1);
    let (width, height) = (canvas.width() * zoom, canvas.height() * zoom);
    let mut canvas = image::imageops::resize(&canvas, width, height, FilterType::Nearest);
    for item in items.iter().rev() {
        draw_box(&mut canvas, item, zoom);
    }
    Ok(canvas)
}

fn paint_mask(canvas: &mut RgbImage, item: &Item<'_>) -> Result<()> {
    let size = ImageSize::new(canvas.height() as usize, canvas.width() as usize);
    let Some(mask) = item.detection.mask(size)? else { return Ok(()) };
    let color = color_of(item.class);
    for (at, _) in mask.bits().iter().enumerate().filter(|(_, bit)| **bit != 0) {
        let (row, column) = (at / mask.width, at % mask.width);
        let pixel = canvas.get_pixel_mut((mask.left + column) as u32, (mask.top + row) as u32);
        *pixel = Rgb(std::array::from_fn(|channel| blend(pixel.0[channel], color[channel])));
    }
    Ok(())
}

fn draw_box(canvas: &mut RgbImage, item: &Item<'_>, zoom: u32) {
    let Some(bbox) = item.detection.bbox else { return };
    let [x, y, width, height] = bbox.map(|value| value * f64::from(zoom));
    let (left, top) = (clamp(x, canvas.width()), clamp(y, canvas.height()));
    let (right, bottom) = (clamp(x + width, canvas.width()), clamp(y + height, canvas.height()));
    let color = color_of(item.class);
    frame(canvas, [left, top, right, bottom], color);
    write(canvas, left, top, &item.label, color);
}

fn color_of(class: usize) -> [u8; 3] {
    PALETTE[class % PALETTE.len()]
}

fn blend(pixel: u8, color: u8) -> u8 {
    (f32::from(pixel) * (1.0 - MASK_OPACITY) + f32::from(color) * MASK_OPACITY).round() as u8
}

/// The pixel that a coordinate falls on.
fn clamp(coordinate: f64, side: u32) -> u32 {
    (coordinate.max(0.0) as u32).min(side - 1)
}

fn frame(canvas: &mut RgbImage, [left, top, right, bottom]: [u32; 4], color: [u8; 3]) {
    for x in left..=right {
        canvas.put_pixel(x, top, Rgb(color));
        canvas.put_pixel(x, bottom, Rgb(color));
    }
    for y in top..=bottom {
        canvas.put_pixel(left, y, Rgb(color));
        canvas.put_pixel(right, y, Rgb(color));
    }
}

/// White text on the class's colour: above the box if there is room, else in it. What leaves the picture is cut off.
fn write(canvas: &mut RgbImage, left: u32, top: u32, text: &str, color: [u8; 3]) {
    let top = top.checked_sub(GLYPH_PX).unwrap_or(top);
    for (index, character) in text.chars().enumerate() {
        let glyph = font8x8::BASIC_FONTS.get(character).or_else(|| font8x8::LATIN_FONTS.get(character));
        let rows = glyph.or_else(|| font8x8::BASIC_FONTS.get('?')).unwrap_or_default();
        for (dy, row) in (0u32..).zip(rows) {
            for dx in 0..GLYPH_PX {
                let (x, y) = (left + index as u32 * GLYPH_PX + dx, top + dy);
                if x < canvas.width() && y < canvas.height() {
                    let is_ink = row >> dx & 1 == 1;
                    canvas.put_pixel(x, y, Rgb(if is_ink { [255; 3] } else { color }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(picture: &RgbImage, bbox: [f64; 4], label: &str, class: usize) -> RgbImage {
        let detection = CocoDetection { image_id: 0, category_id: 1, bbox: Some(bbox), score: 0.9, segmentation: None };
        render(picture, &[Item { detection: &detection, label: label.to_owned(), class }]).unwrap()
    }

    #[test]
    fn the_frame_has_the_class_colour() {
        let canvas = drawn(&RgbImage::new(600, 400), [100.0, 200.0, 150.0, 100.0], "", 1);
        assert_eq!(canvas.dimensions(), (600, 400));
        for (x, y) in [(100, 200), (250, 200), (100, 300), (250, 300), (170, 200)] {
            assert_eq!(canvas.get_pixel(x, y).0, PALETTE[1], "{x},{y}");
        }
        assert_eq!(canvas.get_pixel(170, 250).0, [0; 3]);
    }

    #[test]
    fn small_pictures_are_enlarged_with_their_boxes() {
        let canvas = drawn(&RgbImage::new(100, 50), [10.0, 20.0, 30.0, 10.0], "", 0);
        assert_eq!(canvas.dimensions(), (500, 250));
        assert_eq!(canvas.get_pixel(50, 100).0, PALETTE[0]);
        assert_eq!(canvas.get_pixel(200, 150).0, PALETTE[0]);
    }

    #[test]
    fn labels_and_boxes_at_the_border_are_cut_off() {
        let canvas = drawn(&RgbImage::new(520, 12), [-3.0, 0.0, 600.0, 40.0], "tr\u{e8}s long", 9);
        assert_eq!(canvas.get_pixel(519, 11).0, PALETTE[1]);
    }
}
