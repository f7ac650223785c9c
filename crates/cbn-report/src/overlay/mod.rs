//! Objects drawn over a picture: masks with edges, boxes, labels.

mod canvas;
mod contour;
mod labels;
mod palette;

use cbn_detection::structures::InstanceMask;
use image::RgbImage;
use image::imageops::FilterType;

use canvas::Canvas;
pub use palette::{Color, class_color};

/// Share of the colour that covers a mask's pixels.
const MASK_OPACITY: f32 = 0.35;
/// A box around a mask only helps the eye.
const MASKED_BOX_OPACITY: f32 = 0.55;

/// What is drawn for one object.
#[derive(Debug, Clone)]
pub struct Item {
    /// `[x, y, width, height]` in pixels of the picture.
    pub bbox: Option<[f64; 4]>,
    /// In pixels of the picture.
    pub mask: Option<InstanceMask>,
    /// Nothing is written where it is empty.
    pub label: String,
    /// Of mask, box and label.
    pub color: Color,
}

/// How large the result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Enlarged by the largest whole factor with which the longer side stays within so many pixels; never made smaller.
    AtLeast(u32),
    /// The longer side has so many pixels.
    Exactly(u32),
}

impl Scale {
    fn factor(self, picture: &RgbImage) -> f32 {
        let longer = picture.width().max(picture.height()).max(1);
        match self {
            Self::AtLeast(side) => (side / longer).max(1) as f32,
            Self::Exactly(side) => side as f32 / longer as f32,
        }
    }

    /// How much thicker lines and larger letters are than on a picture of its own: small pictures are shown smaller still.
    fn strength(self) -> f32 {
        match self {
            Self::AtLeast(_) => 1.0,
            Self::Exactly(_) => 1.5,
        }
    }
}

/// The picture with masks, boxes and labels, the first item on top.
///
/// A label stands above its box, else inside, else below, wherever it covers no label of an item before; where there is no
/// such place it is left out.
pub fn render(picture: &RgbImage, items: &[Item], scale: Scale) -> RgbImage {
    let factor = scale.factor(picture);
    let side = |pixels: u32| ((pixels as f32 * factor).round() as u32).max(1);
    let resized =
        image::imageops::resize(picture, side(picture.width()), side(picture.height()), FilterType::CatmullRom);
    let mut canvas = Canvas::new(&resized);
    let strength = scale.strength();
    let line_px = (resized.width().max(resized.height()) as f32 / 400.0).clamp(1.25, 4.0) * strength;
    for item in items.iter().rev() {
        draw_shape(&mut canvas, item, factor, line_px);
    }
    let text_px = canvas.text_px() * strength;
    for (item, place) in items.iter().zip(labels::places(&canvas, items, [factor, line_px, text_px])) {
        if let Some(place) = place {
            labels::draw(&mut canvas, item, place);
        }
    }
    canvas.into_picture()
}

fn draw_shape(canvas: &mut Canvas, item: &Item, factor: f32, line_px: f32) {
    let outline = item.mask.as_ref().and_then(|mask| contour::path(mask, factor));
    if let Some(outline) = &outline {
        canvas.fill(outline, item.color, MASK_OPACITY);
        canvas.stroke(outline, item.color, 1.0, line_px);
    }
    if let Some(frame) = item.bbox.and_then(|bbox| canvas.frame(bbox.map(|value| value as f32 * factor), line_px)) {
        match outline {
            Some(_) => canvas.stroke(&frame, item.color, MASKED_BOX_OPACITY, line_px / 2.0),
            None => canvas.stroke(&frame, item.color, 1.0, line_px),
        }
    }
}

#[cfg(test)]
mod tests {
    use cbn_detection::structures::ImageSize;

    use super::*;

    fn item(bbox: [f64; 4], label: &str) -> Item {
        Item { bbox: Some(bbox), mask: None, label: label.to_owned(), color: class_color(1) }
    }

    fn black(width: u32, height: u32) -> RgbImage {
        RgbImage::new(width, height)
    }

    #[test]
    fn the_frame_has_the_class_colour_and_the_inside_stays() {
        let canvas = render(&black(600, 400), &[item([100.0, 200.0, 150.0, 100.0], "")], Scale::AtLeast(512));
        assert_eq!(canvas.dimensions(), (600, 400));
        let Color([red, green, blue]) = class_color(1);
        for (x, y) in [(100, 250), (249, 250), (170, 200), (170, 299)] {
            let found = canvas.get_pixel(x, y).0;
            // The line is 1.5 pixels wide and lies inside the box: its outer pixel is covered whole.
            let distance = |found: u8, expected: u8| found.abs_diff(expected);
            assert!(
                distance(found[0], red) < 3 && distance(found[1], green) < 3 && distance(found[2], blue) < 3,
                "{x},{y}: {found:?}"
            );
        }
        assert_eq!(canvas.get_pixel(170, 250).0, [0; 3]);
        assert_eq!(canvas.get_pixel(90, 250).0, [0; 3]);
    }

    #[test]
    fn small_pictures_are_enlarged_by_a_whole_factor_or_made_to_measure() {
        assert_eq!(render(&black(100, 50), &[], Scale::AtLeast(512)).dimensions(), (500, 250));
        assert_eq!(render(&black(1000, 50), &[], Scale::AtLeast(512)).dimensions(), (1000, 50));
        assert_eq!(render(&black(1000, 500), &[], Scale::Exactly(480)).dimensions(), (480, 240));
        assert_eq!(render(&black(1, 1000), &[], Scale::Exactly(480)).dimensions(), (1, 480));
    }

    #[test]
    fn a_mask_is_tinted_inside_and_edged_in_full_colour() {
        let size = ImageSize::new(100, 100);
        let inside = |at: usize| (20..80).contains(&(at % 100)) && (20..80).contains(&(at / 100));
        let pixels: Vec<u8> = (0..size.num_pixels()).map(|at| u8::from(inside(at))).collect();
        let mask = Some(InstanceMask::from_full(size, &pixels));
        let item = Item { bbox: None, mask, label: String::new(), color: Color([200, 100, 0]) };
        let canvas = render(&black(100, 100), &[item], Scale::AtLeast(1));
        // 0.35 of the colour on black.
        let center = canvas.get_pixel(50, 50).0;
        assert!(center[0].abs_diff(70) < 2 && center[1].abs_diff(35) < 2, "{center:?}");
        assert!(canvas.get_pixel(20, 50).0[0] > 110, "the edge");
        assert_eq!(canvas.get_pixel(10, 50).0, [0; 3]);
    }

    #[test]
    fn labels_avoid_each_other_and_the_pictures_border() {
        let boxes = [item([10.0, 0.0, 60.0, 60.0], "first 0.99"), item([10.0, 1.0, 60.0, 60.0], "second 0.98")];
        let canvas = Canvas::new(&black(600, 400));
        let places = labels::places(&canvas, &boxes, [1.0, 1.5, 12.0]);
        let (first, second) = (places[0].unwrap(), places[1].unwrap());
        assert!(first.top >= 0.0, "there is no room above the first box");
        assert!(
            second.top >= first.top + first.height || first.top >= second.top + second.height,
            "{first:?} {second:?}"
        );
        let long = item([500.0, 100.0, 90.0, 50.0], "a long label in the corner");
        let place = labels::places(&canvas, &[long], [1.0, 1.5, 12.0])[0].unwrap();
        assert!(place.left + place.width <= 600.0, "{place:?}");
    }

    #[test]
    fn boxes_and_letters_that_leave_the_picture_do_no_harm() {
        let odd = item(
            [-30.0, -5.0, 6000.0, 400.0],
            "tr\u{e8}s long \u{4e2d}\u{6587} label that no picture of this size can hold",
        );
        render(&black(52, 12), &[odd, item([f64::NAN, 0.0, 1.0, 1.0], "x")], Scale::AtLeast(1));
    }
}
