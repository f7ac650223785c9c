//! The outline of a mask.

use std::collections::HashMap;

use cbn_detection::structures::InstanceMask;
use tiny_skia::{Path, PathBuilder};

/// A corner of the pixel grid: column, row.
type Corner = (i32, i32);

/// The outline of a mask, `factor` times as large: closed curves through the middles of the pixel edges that separate object and background, so
/// that slopes have no steps. None for a mask without pixels.
pub(super) fn path(mask: &InstanceMask, factor: f32) -> Option<Path> {
    let mut builder = PathBuilder::new();
    for corners in loops(mask) {
        let next = corners.iter().cycle().skip(1);
        let middles = corners.iter().zip(next).map(|(from, to)| {
            let middle = |a: i32, b: i32, offset: usize| (offset as f32 + (a + b) as f32 / 2.0) * factor;
            (middle(from.0, to.0, mask.left), middle(from.1, to.1, mask.top))
        });
        for (at, (x, y)) in middles.enumerate() {
            if at == 0 { builder.move_to(x, y) } else { builder.line_to(x, y) }
        }
        builder.close();
    }
    builder.finish()
}

/// The closed chains of pixel edges around the object, which lies to the right of each.
fn loops(mask: &InstanceMask) -> Vec<Vec<Corner>> {
    let mut next = edges(mask);
    let mut starts: Vec<Corner> = next.keys().copied().collect();
    starts.sort_unstable();
    let mut loops = Vec::new();
    for start in starts {
        while let Some(ends) = next.get_mut(&start) {
            let Some(first) = ends.pop() else { break };
            let mut corners = vec![start];
            let (mut before, mut at) = (start, first);
            while at != start {
                corners.push(at);
                let step = (at.0 - before.0, at.1 - before.1);
                // Where two pixels touch at a corner, the chain turns right, so that it stays with its pixel.
                let right = (at.0 - step.1, at.1 + step.0);
                let ends = next.get_mut(&at).expect("edges form closed chains");
                let choice = ends.iter().position(|&end| end == right).unwrap_or(0);
                before = at;
                at = ends.swap_remove(choice);
            }
            loops.push(corners);
        }
    }
    loops
}

/// The ends of the edges that start at each corner.
fn edges(mask: &InstanceMask) -> HashMap<Corner, Vec<Corner>> {
    let (width, height) = (mask.width as i32, mask.height as i32);
    let is_object = |x: i32, y: i32| {
        (0..width).contains(&x) && (0..height).contains(&y) && mask.bits()[(y * width + x) as usize] != 0
    };
    let mut next: HashMap<Corner, Vec<Corner>> = HashMap::new();
    for y in 0..height {
        for x in (0..width).filter(|&x| is_object(x, y)) {
            let sides = [
                ((x, y - 1), (x, y), (x + 1, y)),
                ((x + 1, y), (x + 1, y), (x + 1, y + 1)),
                ((x, y + 1), (x + 1, y + 1), (x, y + 1)),
                ((x - 1, y), (x, y + 1), (x, y)),
            ];
            for (neighbor, from, to) in sides {
                if !is_object(neighbor.0, neighbor.1) {
                    next.entry(from).or_default().push(to);
                }
            }
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use cbn_detection::structures::ImageSize;

    use super::*;

    fn mask(rows: &[&str]) -> InstanceMask {
        let pixels: Vec<u8> = rows.iter().flat_map(|row| row.bytes().map(|byte| u8::from(byte == b'#'))).collect();
        InstanceMask::from_full(ImageSize::new(rows.len(), rows[0].len()), &pixels)
    }

    #[test]
    fn a_pixel_has_four_edges_and_a_diamond_around_it() {
        let pixel = mask(&["..", ".#"]);
        assert_eq!(loops(&pixel), [[(0, 0), (1, 0), (1, 1), (0, 1)]]);
        let bounds = path(&pixel, 2.0).unwrap().bounds();
        assert_eq!((bounds.left(), bounds.top(), bounds.right(), bounds.bottom()), (2.0, 2.0, 4.0, 4.0));
    }

    #[test]
    fn holes_have_outlines_of_their_own() {
        let mut lengths: Vec<usize> = loops(&mask(&["###", "#.#", "###"])).iter().map(Vec::len).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [4, 12]);
    }

    #[test]
    fn pixels_that_touch_at_a_corner_stay_apart() {
        let lengths: Vec<usize> = loops(&mask(&["#.", ".#"])).iter().map(Vec::len).collect();
        assert_eq!(lengths, [4, 4]);
        let lengths: Vec<usize> = loops(&mask(&[".#", "#."])).iter().map(Vec::len).collect();
        assert_eq!(lengths, [4, 4]);
    }

    #[test]
    fn nothing_has_no_outline() {
        assert!(path(&mask(&["..", ".."]), 1.0).is_none());
    }
}
