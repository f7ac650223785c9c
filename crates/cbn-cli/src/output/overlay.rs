//! Detections drawn over a picture.

use anyhow::Result;
use cbn_detection::eval::CocoDetection;
use cbn_detection::structures::ImageSize;
use font8x8::UnicodeFonts;
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
/// Sides of a glyph.
const GLYPH_PX: u32 = 8;

/// Draws mask, box and label in the colour of a class.
pub fn draw(canvas: &mut RgbImage, detection: &CocoDetection, label: &str, class: usize) -> Result<()> {
    let color = PALETTE[class % PALETTE.len()];
    let size = ImageSize::new(canvas.height() as usize, canvas.width() as usize);
    if let Some(mask) = detection.mask(size)? {
        for row in 0..mask.height {
            for column in 0..mask.width {
                if mask.bits()[row * mask.width + column] != 0 {
                    let pixel = canvas.get_pixel_mut((mask.left + column) as u32, (mask.top + row) as u32);
                    *pixel = Rgb(std::array::from_fn(|channel| blend(pixel.0[channel], color[channel])));
                }
            }
        }
    }
    let Some([x, y, width, height]) = detection.bbox else { return Ok(()) };
    let left = clamp(x, canvas.width());
    let top = clamp(y, canvas.height());
    frame(canvas, [left, top, clamp(x + width, canvas.width()), clamp(y + height, canvas.height())], color);
    write(canvas, left, top, label, color);
    Ok(())
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

    fn detection(bbox: [f64; 4]) -> CocoDetection {
        CocoDetection { image_id: 0, category_id: 1, bbox: Some(bbox), score: 0.9, segmentation: None }
    }

    #[test]
    fn the_frame_has_the_class_colour() {
        let mut canvas = RgbImage::new(40, 40);
        draw(&mut canvas, &detection([10.0, 20.0, 15.0, 10.0]), "", 1).unwrap();
        for (x, y) in [(10, 20), (25, 20), (10, 30), (25, 30), (17, 20)] {
            assert_eq!(canvas.get_pixel(x, y).0, PALETTE[1], "{x},{y}");
        }
        assert_eq!(canvas.get_pixel(17, 25).0, [0; 3]);
    }

    #[test]
    fn labels_and_boxes_at_the_border_are_cut_off() {
        let mut canvas = RgbImage::new(20, 12);
        draw(&mut canvas, &detection([-3.0, 0.0, 40.0, 40.0]), "très long", 9).unwrap();
        assert_eq!(canvas.get_pixel(19, 11).0, PALETTE[1]);
    }
}
