//! The colour of a class.

/// Red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Color(pub [u8; 3]);

impl Color {
    /// Black or white, whichever is easier to read on this colour.
    pub(super) fn ink(self) -> Self {
        let [red, green, blue] = self.0.map(f32::from);
        // Luma of ITU-R BT.601.
        if 0.299 * red + 0.587 * green + 0.114 * blue > 150.0 { Self([0; 3]) } else { Self([255; 3]) }
    }
}

/// Colours that differ in hue and lightness, also to those who mix up red and green. Source: Okabe and Ito 2008, lightened
/// where pictures are dark.
const PALETTE: [[u8; 3]; 8] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 178, 128],
    [240, 228, 66],
    [40, 120, 220],
    [225, 94, 0],
    [214, 121, 177],
    [170, 240, 120],
];
/// The golden angle: however many hues are drawn, they lie apart.
const GOLDEN_ANGLE: f32 = 137.507_76;

/// The colour of the class with this index, the same in every picture.
pub fn class_color(class: usize) -> Color {
    match PALETTE.get(class) {
        Some(&color) => Color(color),
        None => {
            let turn = (class - PALETTE.len()) as f32;
            // Three lightnesses in turn, for the hues that come to lie close.
            let lightness = [0.55, 0.7, 0.42][class % 3];
            Color(from_hsl((turn * GOLDEN_ANGLE) % 360.0, 0.75, lightness))
        }
    }
}

/// Hue in degrees, saturation and lightness from 0 to 1.
fn from_hsl(hue: f32, saturation: f32, lightness: f32) -> [u8; 3] {
    let amplitude = saturation * lightness.min(1.0 - lightness);
    [0.0_f32, 8.0, 4.0].map(|offset| {
        let place = (offset + hue / 30.0) % 12.0;
        let value = lightness - amplitude * (place - 3.0).min(9.0 - place).clamp(-1.0, 1.0);
        (value * 255.0).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hues_have_their_places() {
        assert_eq!(from_hsl(0.0, 1.0, 0.5), [255, 0, 0]);
        assert_eq!(from_hsl(120.0, 1.0, 0.5), [0, 255, 0]);
        assert_eq!(from_hsl(240.0, 1.0, 0.5), [0, 0, 255]);
        assert_eq!(from_hsl(77.0, 0.0, 0.5), [128, 128, 128]);
    }

    #[test]
    fn the_80_classes_of_coco_have_80_colours() {
        let colors: Vec<[u8; 3]> = (0..80).map(|class| class_color(class).0).collect();
        for (at, color) in colors.iter().enumerate() {
            for other in &colors[..at] {
                let distance: u32 = color.iter().zip(other).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
                assert!(distance >= 12, "{at}: {color:?} and {other:?}");
            }
        }
    }
}
