//! Random changes of colour.

use image::RgbImage;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// How much colours of training images vary; boxes and masks stay.
///
/// The distortions of SSD (Liu et al. 2016, section 2.2) in the order of mmdetection 2 `PhotoMetricDistortion`, without its swap of channels:
/// brightness, contrast (here or at the end, as a coin says), saturation, hue. Each happens to half of the images. Levels are on the 0..255
/// scale and rounded to bytes once, at the end. Defaults are mmdetection's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PhotometricConfig {
    /// At most so many levels are added or taken away.
    pub brightness: f32,
    /// The least and the largest factor on all levels.
    pub contrast: [f32; 2],
    /// The least and the largest factor on the saturation of HSV.
    pub saturation: [f32; 2],
    /// The hue of HSV turns by at most so many degrees, either way.
    pub hue_degrees: f32,
}

impl Default for PhotometricConfig {
    fn default() -> Self {
        Self { brightness: 32.0, contrast: [0.5, 1.5], saturation: [0.5, 1.5], hue_degrees: 18.0 }
    }
}

impl PhotometricConfig {
    /// The field that makes no sense, its value, and what it has to be.
    pub(super) fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let is_range = |[least, largest]: [f32; 2]| 0.0 < least && least <= largest && largest.is_finite();
        if !(0.0..=255.0).contains(&self.brightness) {
            return Some(("photometric.brightness", self.brightness.to_string(), "must lie between 0 and 255"));
        }
        for (field, range) in [("photometric.contrast", self.contrast), ("photometric.saturation", self.saturation)] {
            if !is_range(range) {
                return Some((field, format!("{range:?}"), "must be two factors above 0, the smaller one first"));
            }
        }
        let is_angle = (0.0..=180.0).contains(&self.hue_degrees);
        (!is_angle).then(|| ("photometric.hue_degrees", self.hue_degrees.to_string(), "must lie between 0 and 180"))
    }

    pub(super) fn draw(&self, rng: &mut impl Rng) -> Photometric {
        let mut half = |range: [f32; 2], rest: f32| {
            // Both numbers are always drawn, so that one coin does not shift the others.
            let value = rng.random::<f32>().mul_add(range[1] - range[0], range[0]);
            if rng.random::<bool>() { value } else { rest }
        };
        Photometric {
            brightness: half([-self.brightness, self.brightness], 0.0),
            contrast: half(self.contrast, 1.0),
            saturation: half(self.saturation, 1.0),
            hue_degrees: half([-self.hue_degrees, self.hue_degrees], 0.0),
            contrast_last: rng.random(),
        }
    }
}

/// The changes of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Photometric {
    brightness: f32,
    contrast: f32,
    saturation: f32,
    hue_degrees: f32,
    contrast_last: bool,
}

impl Photometric {
    pub(super) fn apply(&self, image: &RgbImage) -> RgbImage {
        let mut changed = image.clone();
        for pixel in changed.pixels_mut() {
            pixel.0 = self.apply_to_pixel(pixel.0);
        }
        changed
    }

    fn apply_to_pixel(&self, levels: [u8; 3]) -> [u8; 3] {
        let (first, last) = if self.contrast_last { (1.0, self.contrast) } else { (self.contrast, 1.0) };
        let levels = levels.map(|level| (f32::from(level) + self.brightness) * first);
        let levels = if self.saturation == 1.0 && self.hue_degrees == 0.0 {
            levels
        } else {
            let [hue, saturation, value] = hsv(levels);
            rgb([(hue + self.hue_degrees).rem_euclid(360.0), (saturation * self.saturation).min(1.0), value])
        };
        // `as` clamps to 0..255.
        levels.map(|level| (level * last + 0.5) as u8)
    }
}

/// Hue in degrees, saturation 0..1, value on the scale of the levels (Smith 1978).
fn hsv([red, green, blue]: [f32; 3]) -> [f32; 3] {
    // Below black there is no hue.
    let [red, green, blue] = [red.max(0.0), green.max(0.0), blue.max(0.0)];
    let value = red.max(green).max(blue);
    let range = value - red.min(green).min(blue);
    if range == 0.0 {
        return [0.0, 0.0, value];
    }
    let sixths = if value == red {
        ((green - blue) / range).rem_euclid(6.0)
    } else if value == green {
        (blue - red) / range + 2.0
    } else {
        (red - green) / range + 4.0
    };
    [60.0 * sixths, range / value, value]
}

fn rgb([hue, saturation, value]: [f32; 3]) -> [f32; 3] {
    [5.0, 3.0, 1.0].map(|offset| {
        let place = (offset + hue / 60.0).rem_euclid(6.0);
        value * (1.0 - saturation * place.min(4.0 - place).clamp(0.0, 1.0))
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const NONE: Photometric =
        Photometric { brightness: 0.0, contrast: 1.0, saturation: 1.0, hue_degrees: 0.0, contrast_last: false };

    #[test]
    fn each_change_is_the_one_it_says() {
        let change = |change: Photometric| change.apply_to_pixel([200, 100, 0]);
        assert_eq!(change(NONE), [200, 100, 0]);
        assert_eq!(change(Photometric { brightness: 60.0, ..NONE }), [255, 160, 60]);
        assert_eq!(change(Photometric { contrast: 0.5, ..NONE }), [100, 50, 0]);
        // Grey of the same value without saturation; red at 0 degrees turned to green at 120.
        assert_eq!(change(Photometric { saturation: 1e-6, ..NONE }), [200, 200, 200]);
        assert_eq!(Photometric { hue_degrees: 120.0, ..NONE }.apply_to_pixel([90, 0, 0]), [0, 90, 0]);
        // (200 + 20) * 0.5 = 110 either way, unless levels between are clamped or rounded.
        let both = Photometric { brightness: 20.0, contrast: 0.5, ..NONE };
        assert_eq!(change(both), change(Photometric { contrast_last: true, ..both }));
    }

    #[test]
    fn hue_and_back_is_the_same_colour() {
        for levels in [[0.0, 0.0, 0.0], [255.0; 3], [12.0, 200.0, 31.0], [250.0, 3.0, 249.0], [1.0, 2.0, 3.0]] {
            for (found, expected) in rgb(hsv(levels)).into_iter().zip(levels) {
                // A few roundings of numbers up to 360 on the way to numbers up to 255.
                assert!((found - expected).abs() < 1e-3, "{levels:?}: {found}");
            }
        }
        assert_eq!(hsv([0.0, 0.0, 80.0]), [240.0, 1.0, 80.0]);
    }

    #[test]
    fn half_of_the_images_are_changed_within_the_limits() {
        let config = PhotometricConfig::default();
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let drawn: Vec<Photometric> = (0..2000).map(|_| config.draw(&mut rng)).collect();
        let share = |is: fn(&Photometric) -> bool| drawn.iter().filter(|one| is(one)).count() as f64 / 2000.0;
        // Five standard deviations of 2000 coins.
        for share in
            [share(|one| one.brightness != 0.0), share(|one| one.contrast != 1.0), share(|one| one.contrast_last)]
        {
            assert!((share - 0.5).abs() < 0.056, "{share}");
        }
        assert!(drawn.iter().all(|one| one.brightness.abs() <= 32.0 && (0.5..=1.5).contains(&one.saturation)));
    }
}
