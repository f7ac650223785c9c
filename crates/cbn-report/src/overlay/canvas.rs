//! A picture to draw on.

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};
use image::RgbImage;
use tiny_skia::{
    Color as SkiaColor, FillRule, LineJoin, Paint, Path, PathBuilder, Pixmap, PremultipliedColorU8, Rect, Stroke,
    Transform,
};

use super::Color;

/// An opaque picture.
pub(super) struct Canvas {
    pixels: Pixmap,
    font: FontRef<'static>,
}

impl Canvas {
    pub(super) fn new(picture: &RgbImage) -> Self {
        let mut pixels = Pixmap::new(picture.width().max(1), picture.height().max(1)).expect("the sides are positive");
        for (pixel, image::Rgb([red, green, blue])) in pixels.pixels_mut().iter_mut().zip(picture.pixels()) {
            *pixel = opaque([*red, *green, *blue]);
        }
        let font = FontRef::try_from_slice(dejavu::sans::bold()).expect("the font is part of the program");
        Self { pixels, font }
    }

    pub(super) fn into_picture(self) -> RgbImage {
        RgbImage::from_fn(self.pixels.width(), self.pixels.height(), |x, y| {
            let pixel = self.pixels.pixel(x, y).expect("the sizes are the same");
            image::Rgb([pixel.red(), pixel.green(), pixel.blue()])
        })
    }

    pub(super) fn size(&self) -> (f32, f32) {
        (self.pixels.width() as f32, self.pixels.height() as f32)
    }

    /// Height of letters that suits the picture.
    pub(super) fn text_px(&self) -> f32 {
        let (width, height) = self.size();
        (width.max(height) / 55.0).clamp(12.0, 32.0)
    }

    pub(super) fn fill(&mut self, path: &Path, color: Color, opacity: f32) {
        self.pixels.fill_path(path, &paint(color, opacity), FillRule::EvenOdd, Transform::identity(), None);
    }

    pub(super) fn stroke(&mut self, path: &Path, color: Color, opacity: f32, width_px: f32) {
        let stroke = Stroke { width: width_px, line_join: LineJoin::Round, ..Stroke::default() };
        self.pixels.stroke_path(path, &paint(color, opacity), &stroke, Transform::identity(), None);
    }

    /// The middle of a line of this width just inside a box, cut to the picture; none if nothing is left.
    pub(super) fn frame(&self, [x, y, width, height]: [f32; 4], line_px: f32) -> Option<Path> {
        let (right_end, bottom_end) = self.size();
        let half = line_px / 2.0;
        let inside = |from: f32, to: f32, end: f32| (from.clamp(0.0, end) + half, to.clamp(0.0, end) - half);
        let (left, right) = inside(x, x + width, right_end);
        let (top, bottom) = inside(y, y + height, bottom_end);
        // A box narrower than two lines is a line.
        let (right, bottom) = (right.max(left + 0.1), bottom.max(top + 0.1));
        Rect::from_ltrb(left, top, right, bottom).map(PathBuilder::from_rect)
    }

    /// Width of a text, in pixels.
    pub(super) fn text_width(&self, text: &str, size_px: f32) -> f32 {
        self.layout(text, size_px).1
    }

    /// Writes with the left end of the text's line box at (left, top).
    pub(super) fn write(&mut self, text: &str, [left, top]: [f32; 2], size_px: f32, color: Color) {
        let ascent = self.font.as_scaled(PxScale::from(size_px)).ascent();
        let (glyphs, _) = self.layout(text, size_px);
        let (width, height) = (self.pixels.width() as i32, self.pixels.height() as i32);
        for mut glyph in glyphs {
            glyph.position = point(glyph.position.x + left, top + ascent);
            let Some(outline) = self.font.outline_glyph(glyph) else { continue };
            let (x0, y0) = (outline.px_bounds().min.x as i32, outline.px_bounds().min.y as i32);
            let pixels = self.pixels.pixels_mut();
            outline.draw(|dx, dy, coverage| {
                let (x, y) = (x0 + dx as i32, y0 + dy as i32);
                if (0..width).contains(&x) && (0..height).contains(&y) {
                    let pixel = &mut pixels[(y * width + x) as usize];
                    let under = [pixel.red(), pixel.green(), pixel.blue()];
                    *pixel = opaque(std::array::from_fn(|at| blend(under[at], color.0[at], coverage.clamp(0.0, 1.0))));
                }
            });
        }
    }

    /// The glyphs from x = 0 on, and the width of the whole.
    fn layout(&self, text: &str, size_px: f32) -> (Vec<Glyph>, f32) {
        let font = self.font.as_scaled(PxScale::from(size_px));
        let mut x = 0.0;
        let mut last = None;
        let mut glyphs = Vec::new();
        for character in text.chars() {
            let id = font.glyph_id(character);
            x += last.map_or(0.0, |last| font.kern(last, id));
            glyphs.push(id.with_scale_and_position(size_px, point(x, 0.0)));
            x += font.h_advance(id);
            last = Some(id);
        }
        (glyphs, x)
    }
}

fn opaque([red, green, blue]: [u8; 3]) -> PremultipliedColorU8 {
    PremultipliedColorU8::from_rgba(red, green, blue, 255).expect("no channel exceeds an alpha of 255")
}

fn blend(under: u8, over: u8, share: f32) -> u8 {
    (f32::from(under) * (1.0 - share) + f32::from(over) * share).round() as u8
}

fn paint(Color([red, green, blue]): Color, opacity: f32) -> Paint<'static> {
    let mut paint = Paint::default();
    let mut color = SkiaColor::from_rgba8(red, green, blue, 255);
    color.set_alpha(opacity);
    paint.set_color(color);
    paint
}
