use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use hotcoco::Segmentation;
use image::RgbImage;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::image_file::size_of;
use super::mask::{self, MaskError};
use super::photometric::Photometric;
use super::{DataError, MaskResize, PhotometricConfig, ResizeRule, TransformConventions};
use crate::structures::{BBox, BoxConvention, ImageSize, InstanceMask};

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
    /// How often a training image is mirrored top to bottom, whether it is mirrored left to right or not.
    pub vertical_flip_probability: f32,
    /// Random changes of a training image's colours; none if absent.
    pub photometric: Option<PhotometricConfig>,
    /// Subtracted from each channel: RGB, on the 0..255 scale.
    pub pixel_mean: [f32; 3],
    /// Each channel is divided by this after the mean is subtracted: RGB, on the 0..255 scale.
    pub pixel_std: [f32; 3],
    /// Batches are padded at the bottom and the right to a multiple of this.
    pub size_divisor: usize,
    /// What other code bases do otherwise. Default: nothing.
    pub conventions: TransformConventions,
}

impl Default for TransformConfig {
    fn default() -> Self {
        Self {
            min_side_px: vec![800],
            max_side_px: 1333,
            flip_probability: 0.5,
            vertical_flip_probability: 0.0,
            photometric: None,
            // ImageNet's mean and standard deviation, as torchvision's weights expect them.
            pixel_mean: [123.675, 116.28, 103.53],
            pixel_std: [58.395, 57.12, 57.375],
            size_divisor: 32,
            conventions: TransformConventions::default(),
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
        for (field, probability) in
            [("flip_probability", self.flip_probability), ("vertical_flip_probability", self.vertical_flip_probability)]
        {
            if !(0.0..=1.0).contains(&probability) {
                return fault(field, probability.to_string(), "must lie between 0 and 1");
            }
        }
        if let Some((field, value, expected)) = self.photometric.and_then(|photometric| photometric.fault()) {
            return fault(field, value, expected);
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
        // What is not asked for draws nothing, so that a seed means the same as before there was this choice.
        let flip_vertical =
            self.vertical_flip_probability > 0.0 && rng.random::<f32>() < self.vertical_flip_probability;
        let photometric = self.photometric.map(|photometric| photometric.draw(rng));
        Transform { flip_vertical, photometric, ..self.to_side(original, min_side_px, flip) }
    }

    /// The transform of one test image: the last of `min_side_px`, never mirrored.
    ///
    /// # Panics
    ///
    /// If `min_side_px` is empty, which [`Self::validate`] finds.
    pub fn for_test(&self, original: ImageSize) -> Transform {
        let min_side_px = *self.min_side_px.last().expect("a validated config has a side length");
        self.to_side(original, min_side_px, false)
    }

    fn to_side(&self, original: ImageSize, min_side_px: usize, flip: bool) -> Transform {
        let factor = factor(original, min_side_px, self.max_side_px);
        let sides = [original.height, original.width].map(|side| side as f64);
        let scaled = sides.map(|side| side * factor);
        let [height, width] = match self.conventions.resize {
            ResizeRule::Rounded | ResizeRule::OpenCv => scaled.map(|side| side + 0.5),
            ResizeRule::Pillow => scaled_twice(sides, min_side_px, self.max_side_px).map(|side| side + 0.5),
            ResizeRule::Torchvision => scaled,
        }
        .map(|side| (side as usize).max(1));
        let resized = ImageSize::new(height, width);
        let box_scale = match self.conventions.resize {
            ResizeRule::Rounded | ResizeRule::Pillow | ResizeRule::Torchvision => None,
            ResizeRule::OpenCv => Some(factor as f32),
        };
        Transform { conventions: self.conventions, box_scale, ..Transform::new(original, resized, flip) }
    }
}

/// The largest factor that keeps the shorter side within `min_side_px` and the longer side within `max_side_px`.
fn factor(original: ImageSize, min_side_px: usize, max_side_px: usize) -> f64 {
    let (height, width) = (original.height as f64, original.width as f64);
    (min_side_px as f64 / height.min(width)).min(max_side_px as f64 / height.max(width))
}

/// Both sides, first with the shorter one at its length and then, if that is too much, with the longer one at its own: where a side ends on one half, rounding may
/// tell them from the sides times [`factor`] (detectron2 0.6 `ResizeShortestEdge.get_output_shape`).
fn scaled_twice(sides: [f64; 2], min_side_px: usize, max_side_px: usize) -> [f64; 2] {
    let shorter = sides[0].min(sides[1]);
    let scale = min_side_px as f64 / shorter;
    let scaled = sides.map(|side| if side == shorter { min_side_px as f64 } else { scale * side });
    let longer = scaled[0].max(scaled[1]);
    if longer <= max_side_px as f64 { scaled } else { scaled.map(|side| side * (max_side_px as f64 / longer)) }
}

/// A resize and, perhaps, a mirroring, applied alike to an image, its boxes and its masks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transform {
    /// Size of the image before.
    pub original: ImageSize,
    /// Size of the image after: network pixels.
    pub resized: ImageSize,
    /// True if the image is mirrored left to right, after the resize.
    pub flip: bool,
    /// True if the image is mirrored top to bottom, after the resize.
    pub flip_vertical: bool,
    photometric: Option<Photometric>,
    conventions: TransformConventions,
    /// What boxes are multiplied with, if it is not the quotient of the sides.
    box_scale: Option<f32>,
}

impl Transform {
    /// A resize with this library's conventions.
    pub fn new(original: ImageSize, resized: ImageSize, flip: bool) -> Self {
        let conventions = TransformConventions::default();
        Self { original, resized, flip, flip_vertical: false, photometric: None, conventions, box_scale: None }
    }

    /// Network pixels per original pixel for boxes, horizontally and vertically.
    pub fn scale(&self) -> [f32; 2] {
        if let Some(scale) = self.box_scale {
            return [scale; 2];
        }
        let [sx, sy] = self.scale_f64();
        [sx as f32, sy as f32]
    }

    pub(super) fn scale_f64(&self) -> [f64; 2] {
        [
            self.resized.width as f64 / self.original.width as f64,
            self.resized.height as f64 / self.original.height as f64,
        ]
    }

    pub(super) fn box_convention(&self) -> BoxConvention {
        self.conventions.boxes
    }

    pub(super) fn mask_resize(&self) -> MaskResize {
        self.conventions.masks
    }

    /// Changes colours, resizes (bilinear between pixel centres; [`ResizeRule`] has the details) and mirrors.
    ///
    /// # Panics
    ///
    /// If the image has another size than the transform was made for.
    pub fn apply_to_image(&self, image: &RgbImage) -> ResizedImage {
        assert_eq!(size_of(image), self.original, "the transform was made for another image");
        let changed = self.photometric.map(|photometric| photometric.apply(image));
        let image = changed.as_ref().unwrap_or(image);
        let mut resized = ResizedImage {
            size: self.resized,
            scale: self.scale(),
            pixels: resize(image, self.resized, self.conventions.resize),
        };
        if self.flip {
            match &mut resized.pixels {
                Pixels::Bytes(pixels) => mirror(pixels, self.resized.width),
                Pixels::Floats(pixels) => mirror(pixels, self.resized.width),
            }
        }
        if self.flip_vertical {
            match &mut resized.pixels {
                Pixels::Bytes(pixels) => mirror_vertically(pixels, self.resized.width),
                Pixels::Floats(pixels) => mirror_vertically(pixels, self.resized.width),
            }
        }
        resized
    }

    /// The box in network pixels, clipped to the image.
    pub fn apply_to_box(&self, bbox: &BBox) -> BBox {
        let [sx, sy] = self.scale();
        let scaled = self.conventions.boxes.scale(bbox, sx, sy);
        let flipped = if self.flip { scaled.flip_horizontal(self.resized.width) } else { scaled };
        let flipped = if self.flip_vertical { flipped.flip_vertical(self.resized.height) } else { flipped };
        self.conventions.boxes.clip(&flipped, self.resized)
    }

    /// The mask at network scale; [`MaskResize`] says how it gets there.
    ///
    /// # Errors
    ///
    /// If the segmentation is malformed or made for another image size.
    pub fn apply_to_segmentation(&self, segmentation: &Segmentation) -> Result<InstanceMask, MaskError> {
        mask::rasterize(segmentation, self)
    }
}

/// An image at network size, `[H, W, 3]`, RGB on the 0..255 scale.
#[derive(Debug, Clone, PartialEq)]
pub struct ResizedImage {
    /// H and W.
    pub size: ImageSize,
    /// Network pixels per original pixel, horizontally and vertically.
    pub scale: [f32; 2],
    /// Row by row.
    pub pixels: Pixels,
}

/// Pixels of an image; bytes, unless the resize does not round.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// Rounded.
    Bytes(Vec<u8>),
    /// Not rounded.
    Floats(Vec<f32>),
}

fn mirror<T>(pixels: &mut [T], width: usize) {
    for row in pixels.chunks_exact_mut(width * 3) {
        row.reverse();
        row.chunks_exact_mut(3).for_each(<[T]>::reverse);
    }
}

fn mirror_vertically<T>(pixels: &mut [T], width: usize) {
    pixels.reverse();
    // Every row now stands in its place, back to front.
    pixels.chunks_exact_mut(width * 3).for_each(<[T]>::reverse);
}

fn resize(image: &RgbImage, size: ImageSize, rule: ResizeRule) -> Pixels {
    let ImageSize { height, width } = size_of(image);
    let (from, to) = ([height, width], [size.height, size.width]);
    match rule {
        _ if from == to && rule != ResizeRule::Torchvision => Pixels::Bytes(image.as_raw().clone()),
        ResizeRule::Rounded => Pixels::Bytes(resize_fast(image, size).into_raw()),
        ResizeRule::Pillow => Pixels::Bytes(cbn_kernels::resample_bilinear_u8(image.as_raw(), from, 3, to)),
        ResizeRule::OpenCv => Pixels::Bytes(cbn_kernels::resize_bilinear_u8(image.as_raw(), from, 3, to)),
        ResizeRule::Torchvision => {
            let floats: Vec<f32> = image.as_raw().iter().map(|&byte| f32::from(byte)).collect();
            Pixels::Floats(cbn_kernels::resize_bilinear_torch(&floats, from, 3, to))
        }
    }
}

fn resize_fast(image: &RgbImage, size: ImageSize) -> RgbImage {
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
        let fit = |size| TransformConfig::default().for_test(size).resized;
        assert_eq!(fit(ImageSize::new(480, 640)), ImageSize::new(800, 1067));
        assert_eq!(fit(ImageSize::new(426, 640)), ImageSize::new(800, 1202));
        // The long side limits: 1333 / 640 = 2.0828.
        assert_eq!(fit(ImageSize::new(640, 359)), ImageSize::new(1333, 748));
    }

    #[test]
    fn two_scalings_round_as_detectron2() {
        let conventions = TransformConventions { resize: ResizeRule::Pillow, ..TransformConventions::default() };
        let config = TransformConfig { conventions, ..TransformConfig::default() };
        let fit = |height, width| config.for_test(ImageSize::new(height, width)).resized;
        assert_eq!(fit(480, 640), ImageSize::new(800, 1067));
        assert_eq!(fit(640, 359), ImageSize::new(1333, 748));
        // detectron2 0.6 `ResizeShortestEdge.get_output_shape(.., 800, 1333)`; with one factor the first sides are 667 and 65.
        assert_eq!(fit(78, 156), ImageSize::new(666, 1333));
        assert_eq!(fit(60, 1240), ImageSize::new(64, 1333));
    }

    #[test]
    fn doubling_a_row_samples_as_opencv() {
        let image = RgbImage::from_fn(2, 1, |x, _| image::Rgb([(x * 100) as u8; 3]));
        let doubled = resize_fast(&image, ImageSize::new(1, 4));
        // Centres of the four pixels lie at -0.25, 0.25, 0.75, 1.25 of the two; the outer ones are clamped.
        assert_eq!(doubled.pixels().map(|pixel| pixel.0[0]).collect::<Vec<_>>(), [0, 25, 75, 100]);
    }

    #[test]
    fn halving_a_row_does_not_blur_beyond_two_pixels() {
        let image = RgbImage::from_fn(8, 1, |x, _| image::Rgb([(x * x) as u8; 3]));
        let halved = resize_fast(&image, ImageSize::new(1, 4));
        // Mean of 0,1 / 4,9 / 16,25 / 36,49; .5 is rounded up.
        assert_eq!(halved.pixels().map(|pixel| pixel.0[0]).collect::<Vec<_>>(), [1, 7, 21, 43]);
    }

    #[test]
    fn a_flipped_box_ends_where_the_mirrored_object_ends() {
        let transform = Transform::new(ImageSize::new(10, 20), ImageSize::new(20, 40), true);
        assert_eq!(transform.apply_to_box(&BBox::new(1.0, 2.0, 5.0, 7.0)), BBox::new(30.0, 4.0, 38.0, 14.0));
    }

    #[test]
    fn image_box_and_mask_are_mirrored_alike() {
        // One white pixel per image, and the box and the polygon around it.
        let (width, height) = (7, 5);
        for (column, row) in [(0, 0), (6, 4), (2, 1)] {
            let mut image = RgbImage::new(width, height);
            image.put_pixel(column, row, image::Rgb([255; 3]));
            let [x, y] = [column as f64, row as f64];
            let polygon = vec![x, y, x + 1.0, y, x + 1.0, y + 1.0, x, y + 1.0];
            let segmentation = Segmentation::Polygon(vec![polygon]);
            let bbox = BBox::new(x as f32, y as f32, x as f32 + 1.0, y as f32 + 1.0);
            for (flip, flip_vertical) in [(false, false), (true, false), (false, true), (true, true)] {
                let size = size_of(&image);
                let transform = Transform { flip_vertical, ..Transform::new(size, size, flip) };
                let Pixels::Bytes(pixels) = transform.apply_to_image(&image).pixels else { panic!("no bytes") };
                let lit: Vec<u8> = pixels.chunks(3).map(|pixel| pixel[0] / 255).collect();
                assert_eq!(transform.apply_to_segmentation(&segmentation).unwrap().to_full(), lit);
                let place = lit.iter().position(|&pixel| pixel == 1).unwrap();
                let moved = transform.apply_to_box(&bbox);
                assert_eq!((moved.x1 as usize, moved.y1 as usize), (place % 7, place / 7));
            }
        }
    }

    proptest! {
        #[test]
        fn sides_stay_within_their_limits(height in 1usize..3000, width in 1usize..3000) {
            let size = TransformConfig::default().for_test(ImageSize::new(height, width)).resized;
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
