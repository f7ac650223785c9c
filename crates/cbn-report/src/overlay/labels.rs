//! Where labels stand.

use tiny_skia::{PathBuilder, Rect};

use super::Item;
use super::canvas::Canvas;

/// The coloured field behind a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) left: f32,
    pub(super) top: f32,
    pub(super) width: f32,
    pub(super) height: f32,
    text_px: f32,
}

impl Place {
    fn overlaps(&self, other: &Self) -> bool {
        self.left < other.left + other.width
            && other.left < self.left + self.width
            && self.top < other.top + other.height
            && other.top < self.top + self.height
    }
}

/// A place for each item's label, the first items first; none where the label is empty or every place is taken.
///
/// `sizes` are picture pixels per item pixel, the line's width and the letters' height.
pub(super) fn places(canvas: &Canvas, items: &[Item], sizes: [f32; 3]) -> Vec<Option<Place>> {
    let [factor, line_px, text_px] = sizes;
    let mut taken: Vec<Place> = Vec::new();
    let mut places = Vec::with_capacity(items.len());
    for item in items {
        let place = item.bbox.filter(|_| !item.label.is_empty()).and_then(|bbox| {
            let bbox = bbox.map(|value| value as f32 * factor);
            candidates(canvas, &item.label, bbox, [line_px, text_px])
                .into_iter()
                .find(|place| !taken.iter().any(|other| place.overlaps(other)))
        });
        taken.extend(place);
        places.push(place);
    }
    places
}

/// Above the box, inside at its top, below it: those that lie in the picture.
fn candidates(
    canvas: &Canvas,
    label: &str,
    [x, y, _, box_height]: [f32; 4],
    [line_px, text_px]: [f32; 2],
) -> Vec<Place> {
    let (right_end, bottom_end) = canvas.size();
    let (width, height) = (canvas.text_width(label, text_px) + text_px * 0.5, text_px * 1.2);
    let left = x.min(right_end - width).max(0.0);
    let tops = [y - height, y + line_px, y + box_height];
    let inside = tops.into_iter().filter(|top| *top >= 0.0 && top + height <= bottom_end);
    inside.map(|top| Place { left, top, width, height, text_px }).collect()
}

/// The text in black or white on the item's colour.
pub(super) fn draw(canvas: &mut Canvas, item: &Item, place: Place) {
    let Place { left, top, width, height, text_px } = place;
    if let Some(field) = Rect::from_xywh(left, top, width, height) {
        canvas.fill(&PathBuilder::from_rect(field), item.color, 0.9);
    }
    canvas.write(&item.label, [left + text_px * 0.25, top + text_px * 0.05], text_px, item.color.ink());
}
