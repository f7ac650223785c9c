//! `cbn detect`: find objects in pictures.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use cbn_detection::data::{TestBatch, read_rgb};
use cbn_detection::eval::{CocoDetection, collect};
use cbn_detection::structures::ImageSize;
use cbn_report::overlay::{Item, Scale, class_color, render};
use image::RgbImage;
use serde::Serialize;

use crate::cli::DetectArgs;
use crate::model_file::TrainedModel;

/// Pictures whose longer side is at most half of this are enlarged.
const MIN_SIDE_PX: u32 = 1024;

/// What was found in one picture; an element of detections.json.
#[derive(Serialize)]
struct PictureRecord<'a> {
    file_name: String,
    width: u32,
    height: u32,
    overlay: String,
    detections: Vec<NamedDetection<'a>>,
}

#[derive(Serialize)]
struct NamedDetection<'a> {
    category: &'a str,
    #[serde(flatten)]
    detection: CocoDetection,
}

pub fn run(args: &DetectArgs) -> Result<()> {
    let device = args.device.open()?;
    let overlays = overlay_paths(&args.images, &args.out_dir)?;
    fs::create_dir_all(&args.out_dir).with_context(|| format!("cannot write to {}", args.out_dir.display()))?;
    let json_path = args.out_dir.join("detections.json");
    let json = File::create(&json_path).with_context(|| format!("cannot write {}", json_path.display()))?;
    let model = TrainedModel::load(&args.checkpoint, &device)?;

    let mut records = Vec::new();
    for (path, overlay_path) in args.images.iter().zip(&overlays) {
        let picture = read_rgb(path).with_context(|| format!("cannot use {}", path.display()))?;
        let found = detect_in(&model, &picture, path, &device, args.score);
        draw(&model, &picture, &found, overlay_path)?;
        println!("{}: {} objects -> {}", path.display(), found.len(), overlay_path.display());
        records.push(PictureRecord {
            file_name: path.display().to_string(),
            width: picture.width(),
            height: picture.height(),
            overlay: overlay_path.display().to_string(),
            detections: found
                .into_iter()
                .map(|detection| NamedDetection { category: class_name(&model, &detection), detection })
                .collect(),
        });
    }
    let mut json = BufWriter::new(json);
    serde_json::to_writer_pretty(&mut json, &records)?;
    json.flush().with_context(|| format!("cannot write {}", json_path.display()))?;
    println!("{}", json_path.display());
    Ok(())
}

/// What the detector finds in a picture with at least this score, in the picture's pixels.
pub fn detect_in(
    model: &TrainedModel,
    picture: &RgbImage,
    path: &Path,
    device: &Device,
    score: f64,
) -> Vec<CocoDetection> {
    let batch = TestBatch::from_image(picture, path.display().to_string(), &model.plan.transform);
    let category_ids: Vec<u64> = model.categories.iter().map(|category| category.id).collect();
    let found = model.detector.detect(&batch.images.to_device(device));
    let mut found: Vec<CocoDetection> = found
        .iter()
        .zip(&batch.metas)
        .flat_map(|(detections, meta)| collect(detections, meta, &category_ids))
        .collect();
    found.retain(|detection| detection.score >= score);
    found
}

/// Writes a picture with what was found in it.
pub fn draw(model: &TrainedModel, picture: &RgbImage, found: &[CocoDetection], path: &Path) -> Result<()> {
    let size = ImageSize::new(picture.height() as usize, picture.width() as usize);
    let item = |detection: &CocoDetection| -> Result<Item> {
        let class = model.categories.iter().position(|category| category.id == detection.category_id).unwrap_or(0);
        Ok(Item {
            bbox: detection.bbox,
            mask: detection.mask(size)?,
            label: format!("{} {:.2}", class_name(model, detection), detection.score),
            color: class_color(class),
        })
    };
    let items = found.iter().map(item).collect::<Result<Vec<_>>>()?;
    let overlay = render(picture, &items, Scale::AtLeast(MIN_SIDE_PX));
    overlay.save(path).with_context(|| format!("cannot write {}", path.display()))
}

fn class_name<'a>(model: &'a TrainedModel, detection: &CocoDetection) -> &'a str {
    let category = model.categories.iter().find(|category| category.id == detection.category_id);
    category.map_or("?", |category| &category.name)
}

/// One PNG per picture, named after it.
fn overlay_paths(images: &[PathBuf], out_dir: &Path) -> Result<Vec<PathBuf>> {
    let mut taken = HashSet::new();
    images
        .iter()
        .map(|image| {
            let stem = image.file_stem().with_context(|| format!("{} is not a file name", image.display()))?;
            let path = out_dir.join(stem).with_extension("png");
            anyhow::ensure!(
                taken.insert(path.clone()),
                "two pictures are named {}: their overlays would overwrite each other",
                stem.to_string_lossy()
            );
            Ok(path)
        })
        .collect()
}
