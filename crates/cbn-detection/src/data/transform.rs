use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use hotcoco::Segmentation;
use image::RgbImage;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::DataError;
use super::image_file::size_of;
use super::mask::{self, MaskError};
use crate::structures::{BBox, ImageSize, InstanceMask};

/// How images are prepared: the policy from which a fixed [`Transform`] is drawn per image.
///
/// Defaults are those of the published COCO recipes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransformConfig {
    /// Length that the shorter side is resized to. Training draws one of the list per image, testing takes the last.
    pub min_side_px: Vec<usize>,
    /// The longer side never exceeds this.
    pub max_side_px: usize,
    /// How often a training image is mirrored left to right.
    pub flip_probability: f32,
    /// Subtracted from each channel: RGB, on the 0..255 scale.
    pub pixel_mean: [f32; 3],
    /// Each channel is divided by this after the mean is subtracted: RGB, on the 0..255 scale.
    pub pixel_std: [f32; 3],
    /// Batches are padded at the bottom and the right to a multiple of this.
    pub size_divisor: usize,
}

impl Default for TransformConfig {
    fn default() -> Self {
        Self {
            min_side_px: vec![800],
            max_side_px: 1333,
            flip_probability: 0.5,
            // ImageNet's mean and standard deviation, as torchvision's weights expect them.
            pixel_mean: [123.675, 116.28, 103.53],
            pixel_std: [58.395, 57.12, 57.375],
            size_divisor: 32,
        }
    }
}

impl TransformConfig {
    /// Says which setting makes no sense, if any.
    ///
    /// # Errors
    ///
    /// If a length is 0, the probability is not one, or a standard deviation is not positive.
    pub fn validate(&self) -> Result<(), DataError> {
        let fault = |field, value: String, expected| Err(DataError::Config { field, value, expected });
        if self.min_side_px.is_empty() || self.min_side_px.contains(&0) {
            return fault("min_side_px", format!("{:?}", self.min_side_px), "name at least one length, none of them 0");
        }
        if self.max_side_px == 0 {
            return fault("max_side_px", "0".into(), "must be positive");
        }
        if !(0.0..=1.0).contains(&self.flip_probability) {
            return fault("flip_probability", self.flip_probability.to_string(), "must lie between 0 and 1");
        }
        if !self.pixel_std.iter().all(|&std| std > 0.0) {
            return fault("pixel_std", format!("{:?}", self.pixel_std), "must be positive");
        }
        if self.size_divisor == 0 {
            return fault("size_divisor", "0".into(), "must be positive");
        }
        Ok(())
    }

    /// Draws the transform of one training image.
    pub fn draw(&self, original: ImageSize, rng: &mut impl Rng) -> Transform {
        let min_side_px = self.min_side_px[rng.random_range(0..self.min_side_px.len())];
        let flip = rng.random::<f32>() < self.flip_probability;
        Transform { original, resized: fit(original, min_side_px, self.max_side_px), flip }
    }

    /// The transform of one test image: the last of `min_side_px`, never mirrored.
    ///
    /// # Panics
    ///
    /// If `min_side_px` is empty, which [`Self::validate`] finds.
    pub fn for_test(&self, original: ImageSize) -> Transform {
        let min_side_px = *self.min_side_px.last().expect("a validated config has a side length");
        Transform { original, resized: fit(original, min_side_px, self.max_side_px), flip: false }
    }
}

/// Size of an image after a keep-ratio resize: `round(side * factor)`, with the largest factor that keeps the shorter side
/// within `min_side_px` and the longer side within `max_side_px` (mmcv 0.2 `imrescale`).
fn fit(original: ImageSize, min_side_px: usize, max_side_px: usize) -> ImageSize {
    let (height, width) = (original.height as f64, original.width as f64);
    let factor = (min_side_px as f64 / height.min(width)).min(max_side_px as f64 / height.max(width));
    let scaled = |side: f64| ((side * factor + 0.5) as usize).max(1);
    ImageSize::new(scaled(height), scaled(width))
}

/// A resize and, perhaps, a mirroring, applied alike to an image, its boxes and its masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transform {
    /// Size of the image before.
    pub original: ImageSize,
    /// Size of the image after: network pixels.
    pub resized: ImageSize,
    /// True if the image is mirrored left to right, after the resize.
    pub flip: bool,
}

impl Transform {
    /// Network pixels per original pixel, horizontally and vertically.
    pub fn scale(&self) -> [f32; 2] {
        let [sx, sy] = self.scale_f64();
        [sx as f32, sy as f32]
    }

    pub(super) fn scale_f64(&self) -> [f64; 2] {
        [
            self.resized.width as f64 / self.original.width as f64,
            self.resized.height as f64 / self.original.height as f64,
        ]
    }

    /// Resizes (bilinear between pixel centres without antialiasing, as OpenCV's `INTER_LINEAR`) and mirrors.
    ///
    /// # Panics
    ///
    /// If the image has another size than the transform was made for.
    pub fn apply_to_image(&self, image: &RgbImage) -> RgbImage {
        assert_eq!(size_of(image), self.original, "the transform was made for another image");
        let mut resized = resize(image, self.resized);
        if self.flip {
            image::imageops::flip_horizontal_in_place(&mut resized);
        }
        resized
    }

    /// The box in network pixels, clipped to the image.
    pub fn apply_to_box(&self, bbox: &BBox) -> BBox {
        let [sx, sy] = self.scale();
        let scaled = bbox.scale(sx, sy).clip(self.resized);
        if self.flip { scaled.flip_horizontal(self.resized.width) } else { scaled }
    }

    /// The mask at network scale: polygons are moved and then rasterised, RLE is resampled (nearest pixel centre).
    ///
    /// # Errors
    ///
    /// If the segmentation is malformed or made for another image size.
    pub fn apply_to_segmentation(&self, segmentation: &Segmentation) -> Result<InstanceMask, MaskError> {
        mask::rasterize(segmentation, self)
    }
}

fn resize(image: &RgbImage, size: ImageSize) -> RgbImage {
    if size_of(image) == size {
        return image.clone();
    }
    let (width, height) = (size.width as u32, size.height as u32);
    let mut resized = RgbImage::new(width, height);
    let source = TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image.as_raw())
        .expect("an RGB image has three bytes per pixel");
    let mut target =
        TypedImage::<U8x3>::from_buffer(width, height, &mut resized).expect("an RGB image has three bytes per pixel");
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Interpolation(FilterType::Bilinear));
    Resizer::new().resize_typed(&source, &mut target, &options).expect("source and target are not cropped");
    resized
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_coco_image_is_resized_as_the_recipes_say() {
        assert_eq!(fit(ImageSize::new(480, 640), 800, 1333), ImageSize::new(800, 1067));
        assert_eq!(fit(ImageSize::new(426, 640), 800, 1333), ImageSize::new(800, 1202));
        // The long side limits: 1333 / 640 = 2.0828.
        assert_eq!(fit(ImageSize::new(640, 359), 800, 1333), ImageSize::new(1333, 748));
    }

    #[test]
    fn doubling_a_row_samples_as_opencv() {
        let image = RgbImage::from_fn(2, 1, |x, _| image::Rgb([(x * 100) as u8; 3]));
        let doubled = resize(&image, ImageSize::new(1, 4));
        // Centres of the four pixels lie at -0.25, 0.25, 0.75, 1.25 of the two; the outer ones are clamped.
        assert_eq!(doubled.pixels().map(|pixel| pixel.0[0]).collect::<Vec<_>>(), [0, 25, 75, 100]);
    }

    #[test]
    fn halving_a_row_does_not_blur_beyond_two_pixels() {
        let image = RgbImage::from_fn(8, 1, |x, _| image::Rgb([(x * x) as u8; 3]));
        let halved = resize(&image, ImageSize::new(1, 4));
        // Mean of 0,1 / 4,9 / 16,25 / 36,49; .5 is rounded up.
        assert_eq!(halved.pixels().map(|pixel| pixel.0[0]).collect::<Vec<_>>(), [1, 7, 21, 43]);
    }

    #[test]
    fn a_flipped_box_ends_where_the_mirrored_object_ends() {
        let transform = Transform { original: ImageSize::new(10, 20), resized: ImageSize::new(20, 40), flip: true };
        assert_eq!(transform.apply_to_box(&BBox::new(1.0, 2.0, 5.0, 7.0)), BBox::new(30.0, 4.0, 38.0, 14.0));
    }

    proptest! {
        #[test]
        fn sides_stay_within_their_limits(height in 1usize..3000, width in 1usize..3000) {
            let size = fit(ImageSize::new(height, width), 800, 1333);
            prop_assert!(size.height.min(size.width) <= 800 && size.height.max(size.width) <= 1333);
            prop_assert!(size.height.min(size.width) == 800 || size.height.max(size.width) == 1333);
        }

        #[test]
        fn scaling_back_restores_a_box(x in 0f32..300.0, y in 0f32..300.0, w in 1f32..300.0, h in 1f32..300.0) {
            let original = ImageSize::new(600, 601);
            let transform = TransformConfig::default().for_test(original);
            let [sx, sy] = transform.scale();
            let back = transform.apply_to_box(&BBox::new(x, y, x + w, y + h)).scale(1.0 / sx, 1.0 / sy);
            for (edge, expected) in back.to_array().iter().zip([x, y, x + w, y + h]) {
                // Three roundings of numbers below 1024, each at most 2^-15 (half a unit in the last place).
                prop_assert!((edge - expected).abs() < 1e-3);
            }
        }
    }
}
