//! Pictures of simple shapes with exact boxes and masks, as a real COCO-format folder.

use std::f64::consts::TAU;
use std::path::Path;

use hotcoco::{Rle, mask};
use image::{Rgb, RgbImage};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::DataError;
use crate::structures::{BBox, ImageSize};

/// A class of the synthetic data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// A disc.
    Circle,
    /// A square, turned by up to a few degrees.
    Square,
    /// An equilateral triangle, turned by up to a few degrees.
    Triangle,
    /// A five-pointed star, turned by any angle.
    Star,
}

impl Shape {
    /// Class name in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
        }
    }

    /// Corners of a shape with circumradius 1 as (angle, radius).
    fn corners(self) -> Vec<(f64, f64)> {
        let regular = |n: usize, first: f64| (0..n).map(|k| (first + TAU * k as f64 / n as f64, 1.0)).collect();
        match self {
            Self::Circle => regular(40, 0.0),
            Self::Square => regular(4, TAU / 8.0),
            Self::Triangle => regular(3, -TAU / 4.0),
            Self::Star => (0..10).map(|k| (TAU * k as f64 / 10.0, if k % 2 == 0 { 1.0 } else { 0.45 })).collect(),
        }
    }

    /// How far the shape may be turned either way.
    fn max_turn(self) -> f64 {
        match self {
            Self::Circle => 0.0,
            Self::Square | Self::Triangle => TAU / 36.0,
            Self::Star => TAU / 2.0,
        }
    }
}

/// What to draw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyntheticConfig {
    /// Training images.
    pub num_train: usize,
    /// Validation images.
    pub num_val: usize,
    /// Size of every image.
    pub image_size: ImageSize,
    /// Most objects on an image; there is at least one.
    pub max_objects: usize,
    /// The classes.
    pub shapes: Vec<Shape>,
    /// The same seed draws the same data.
    pub seed: u64,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        Self {
            num_train: 200,
            num_val: 40,
            image_size: ImageSize::new(128, 128),
            max_objects: 4,
            shapes: vec![Shape::Circle, Shape::Square, Shape::Triangle],
            seed: 0,
        }
    }
}

impl SyntheticConfig {
    fn validate(&self) -> Result<(), DataError> {
        let fault = |field, value: String, expected| Err(DataError::Config { field, value, expected });
        if self.shapes.is_empty() {
            return fault("shapes", "empty".into(), "name at least one");
        }
        if self.max_objects == 0 {
            return fault("max_objects", "0".into(), "must be positive");
        }
        if self.image_size.height.min(self.image_size.width) < 32 {
            return fault("image_size", self.image_size.to_string(), "must be at least 32x32");
        }
        Ok(())
    }
}

/// Writes `train.json`, `val.json` and `images/*.png` into `dir`, which is made if needed.
///
/// Objects overlap a little. A shape in full view is annotated by its polygon, a partly hidden one by the RLE of what
/// can be seen.
///
/// # Errors
///
/// If a setting makes no sense or a file cannot be written.
pub fn generate(dir: &Path, config: &SyntheticConfig) -> Result<(), DataError> {
    config.validate()?;
    let images_dir = dir.join("images");
    std::fs::create_dir_all(&images_dir).map_err(DataError::write(&images_dir))?;
    for (split, num_images) in [("train", config.num_train), ("val", config.num_val)] {
        let (mut images, mut annotations) = (Vec::new(), Vec::new());
        for index in 0..num_images {
            let image_id = index + 1;
            let file_name = format!("{split}_{image_id:05}.png");
            let scene = Scene::draw(config, &mut scene_rng(config.seed, split, index));
            let path = images_dir.join(&file_name);
            scene.picture.save(&path).map_err(|error| DataError::write(&path)(std::io::Error::other(error)))?;
            let ImageSize { height, width } = config.image_size;
            images.push(json!({"id": image_id, "file_name": file_name, "height": height, "width": width}));
            for object in &scene.objects {
                annotations.push(object.to_coco(annotations.len() + 1, image_id));
            }
        }
        write_json(&dir.join(format!("{split}.json")), &coco_file(images, annotations, &config.shapes))?;
    }
    Ok(())
}

/// Every picture has its own random numbers: more images do not change the ones before.
fn scene_rng(seed: u64, split: &str, index: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(index as u64).to_le_bytes());
    key[16] = u8::from(split == "val");
    ChaCha8Rng::from_seed(key)
}

fn coco_file(images: Vec<Value>, annotations: Vec<Value>, shapes: &[Shape]) -> Value {
    let categories: Vec<Value> =
        shapes.iter().enumerate().map(|(at, shape)| json!({"id": at + 1, "name": shape.name()})).collect();
    json!({"images": images, "annotations": annotations, "categories": categories})
}

fn write_json(path: &Path, value: &Value) -> Result<(), DataError> {
    std::fs::write(path, value.to_string()).map_err(DataError::write(path))
}

/// A picture and what can be seen on it.
struct Scene {
    picture: RgbImage,
    objects: Vec<Object>,
}

struct Object {
    category_id: usize,
    polygon: Vec<f64>,
    /// The part that later objects do not hide, column by column.
    visible: Vec<u8>,
    is_hidden_in_part: bool,
    size: ImageSize,
}

impl Scene {
    fn draw(config: &SyntheticConfig, rng: &mut impl Rng) -> Self {
        let mut picture = background(config.image_size, rng);
        let mut objects: Vec<Object> = Vec::new();
        let mut boxes: Vec<BBox> = Vec::new();
        let num_objects = rng.random_range(1..=config.max_objects);
        // A full image takes no more shapes, so the number of attempts is limited.
        for _ in 0..num_objects * 8 {
            if objects.len() == num_objects {
                break;
            }
            let which = rng.random_range(0..config.shapes.len());
            let object = Object::place(config.shapes[which], which + 1, config.image_size, rng);
            let bbox = BBox::from_xywh(mask::to_bbox(&object.rle()));
            // At most a fifth of the smaller box is shared, so most of every shape stays in view.
            let too_close = |other: &BBox| other.intersection(&bbox) > 0.2 * other.area().min(bbox.area());
            if boxes.iter().any(too_close) {
                continue;
            }
            paint(&mut picture, &object.visible, rng);
            objects.iter_mut().for_each(|below| below.hide_under(&object.visible));
            objects.push(object);
            boxes.push(bbox);
        }
        Self { picture, objects }
    }
}

impl Object {
    fn place(shape: Shape, category_id: usize, size: ImageSize, rng: &mut impl Rng) -> Self {
        let (height, width) = (size.height as f64, size.width as f64);
        let radius = height.min(width) * rng.random_range(0.09..0.25);
        let (x, y) = (rng.random_range(radius..width - radius), rng.random_range(radius..height - radius));
        let turn = shape.max_turn() * rng.random_range(-1.0..=1.0);
        let polygon: Vec<f64> = shape
            .corners()
            .into_iter()
            .flat_map(|(angle, r)| [x + radius * r * (angle + turn).cos(), y + radius * r * (angle + turn).sin()])
            // A hundredth of a pixel, as COCO writes coordinates.
            .map(|coordinate| (coordinate * 100.0).round() / 100.0)
            .collect();
        let rle = mask::fr_poly(&polygon, size.height as u32, size.width as u32)
            .expect("synthetic images have fewer than 2^32 pixels");
        Self { category_id, polygon, visible: mask::decode(&rle), is_hidden_in_part: false, size }
    }

    fn hide_under(&mut self, above: &[u8]) {
        for (pixel, &covered) in self.visible.iter_mut().zip(above) {
            self.is_hidden_in_part |= *pixel & covered != 0;
            *pixel &= 1 - covered;
        }
    }

    fn rle(&self) -> Rle {
        mask::encode(&self.visible, self.size.height as u32, self.size.width as u32)
            .expect("the mask was decoded at this size")
    }

    fn to_coco(&self, id: usize, image_id: usize) -> Value {
        let rle = self.rle();
        let segmentation = if self.is_hidden_in_part {
            json!({"size": [rle.h, rle.w], "counts": mask::rle_to_string(&rle)})
        } else {
            json!([self.polygon])
        };
        json!({
            "id": id,
            "image_id": image_id,
            "category_id": self.category_id,
            "bbox": mask::to_bbox(&rle),
            "area": mask::area(&rle),
            "iscrowd": 0,
            "segmentation": segmentation,
        })
    }
}

/// A dull gradient with stripes and grain.
fn background(size: ImageSize, rng: &mut impl Rng) -> RgbImage {
    let base: [f64; 3] = std::array::from_fn(|_| rng.random_range(90.0..150.0));
    let (slope_x, slope_y) = (rng.random_range(-40.0..40.0), rng.random_range(-40.0..40.0));
    let (wave_x, wave_y) = (rng.random_range(0.05..0.5), rng.random_range(0.05..0.5));
    RgbImage::from_fn(size.width as u32, size.height as u32, |x, y| {
        let (x, y) = (f64::from(x), f64::from(y));
        let shade = slope_x * (x / size.width as f64 - 0.5) + slope_y * (y / size.height as f64 - 0.5);
        let stripes = 8.0 * (x * wave_x + y * wave_y).sin();
        Rgb(base.map(|channel| (channel + shade + stripes + rng.random_range(-10.0..10.0)).clamp(0.0, 255.0) as u8))
    })
}

/// Fills the pixels of a mask, column by column, with one vivid colour and some grain.
fn paint(picture: &mut RgbImage, pixels: &[u8], rng: &mut impl Rng) {
    // At least one channel far from the dull background on either side.
    let mut colour: [f64; 3] = std::array::from_fn(|_| rng.random_range(0.0..255.0));
    colour[rng.random_range(0..3)] = if rng.random() { 245.0 } else { 10.0 };
    let height = picture.height() as usize;
    for at in (0..pixels.len()).filter(|&at| pixels[at] != 0) {
        let grainy = colour.map(|channel| (channel + rng.random_range(-12.0..12.0)).clamp(0.0, 255.0) as u8);
        picture.put_pixel((at / height) as u32, (at % height) as u32, Rgb(grainy));
    }
}
