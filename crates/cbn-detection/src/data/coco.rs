use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use hotcoco::{COCO, Segmentation};
use serde::{Deserialize, Serialize};

use super::{DataError, Finding, Severity};
use crate::structures::{BBox, ImageSize};

/// A class of objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Category {
    /// COCO id, any number.
    pub id: u64,
    /// Display name.
    pub name: String,
}

/// One annotated object or crowd.
#[derive(Debug, Clone)]
pub struct Annotation {
    /// COCO id.
    pub id: u64,
    /// Class, an index into [`Dataset::categories`].
    pub label: usize,
    /// Box in original pixels, clipped to the image, not empty.
    pub bbox: BBox,
    /// True for a region of many objects: neither object nor background.
    pub is_crowd: bool,
    /// True if the file says `"ignore": true` or `1`, a key that COCO itself does not have.
    pub is_ignored: bool,
    /// Polygons or RLE in original pixels.
    pub segmentation: Option<Segmentation>,
}

/// One image and what it shows.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// COCO id.
    pub id: u64,
    /// Path below the image folder.
    pub file_name: String,
    /// Original size, as the JSON says.
    pub size: ImageSize,
    /// Whether the file has any annotation of the image, usable or not.
    pub is_annotated: bool,
    /// Usable annotations, crowds included, in file order.
    pub annotations: Vec<Annotation>,
}

impl ImageRecord {
    /// The annotations that a detector learns from: all but crowds.
    pub fn objects(&self) -> impl Iterator<Item = &Annotation> {
        self.annotations.iter().filter(|annotation| !annotation.is_crowd)
    }
}

/// A COCO data set: images on disk, annotations in memory.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// All images, in file order.
    pub images: Vec<ImageRecord>,
    /// All classes, in file order; a label is an index into this list.
    pub categories: Vec<Category>,
    annotations_path: PathBuf,
    images_dir: PathBuf,
    findings: Vec<Finding>,
}

impl Dataset {
    /// Reads COCO JSON. Image files are opened when a loader needs them.
    ///
    /// Annotations that cover nothing or lie outside their image are left out (COCO's own training set has some) and
    /// listed in [`Self::findings`].
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is not COCO JSON, lists no image, has an id twice, or refers to an image or category
    /// that it does not list.
    pub fn load(annotations: &Path, images_dir: &Path) -> Result<Self, DataError> {
        let dataset = Self::parse(annotations, images_dir)?;
        match dataset.findings.iter().find(|finding| finding.severity() == Severity::Error) {
            Some(finding) => Err(DataError::Invalid { path: annotations.to_owned(), finding: finding.clone() }),
            None => Ok(dataset),
        }
    }

    /// [`Self::load`], but entries that make the file unusable are findings instead of an error.
    pub(super) fn parse(annotations: &Path, images_dir: &Path) -> Result<Self, DataError> {
        let file = read_coco(annotations)?;
        let mut findings = Vec::new();
        let label_of = index_by_id(file.categories.iter().map(|category| category.id), |category| {
            findings.push(Finding::DuplicateCategory { category });
        });
        let index_of = index_by_id(file.images.iter().map(|image| image.id), |image| {
            findings.push(Finding::DuplicateImage { image });
        });
        let mut images: Vec<ImageRecord> = file.images.into_iter().map(image_record).collect();
        findings.extend(
            images
                .iter()
                .filter(|image| image.size.num_pixels() == 0)
                .map(|image| Finding::NoImageSize { image: image.id, size: image.size }),
        );
        for annotation in file.annotations {
            let Some(&index) = index_of.get(&annotation.image_id) else {
                findings.push(Finding::UnknownImage { annotation: annotation.id, image: annotation.image_id });
                continue;
            };
            images[index].is_annotated = true;
            match usable_annotation(annotation, images[index].size, &label_of, &mut findings) {
                Ok(annotation) => images[index].annotations.push(annotation),
                Err(finding) => findings.push(finding),
            }
        }
        let categories =
            file.categories.into_iter().map(|category| Category { id: category.id, name: category.name }).collect();
        Ok(Self {
            images,
            categories,
            annotations_path: annotations.to_owned(),
            images_dir: images_dir.to_owned(),
            findings,
        })
    }

    /// What was noticed while reading: annotations left out, boxes clipped.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The annotation file.
    pub fn annotations_path(&self) -> &Path {
        &self.annotations_path
    }

    /// The folder that images' file names are relative to.
    pub fn images_dir(&self) -> &Path {
        &self.images_dir
    }

    /// The image's file.
    pub fn image_path(&self, image: &ImageRecord) -> PathBuf {
        self.images_dir.join(&image.file_name)
    }

    /// Names of the classes, in label order.
    pub fn class_names(&self) -> Vec<String> {
        self.categories.iter().map(|category| category.name.clone()).collect()
    }

    /// COCO ids of the classes, in label order.
    pub fn category_ids(&self) -> Vec<u64> {
        self.categories.iter().map(|category| category.id).collect()
    }

    /// Indices of the images with at least one object: those a training uses, unless a recipe's conventions say otherwise.
    pub fn trainable_images(&self) -> Vec<usize> {
        (0..self.images.len()).filter(|&index| self.images[index].objects().next().is_some()).collect()
    }
}

/// Reads the file and makes sure that it is a COCO data set with images.
pub(super) fn read_coco(path: &Path) -> Result<hotcoco::Dataset, DataError> {
    let not_coco = |reason: String| DataError::NotCoco { path: path.to_owned(), reason };
    let mut coco = COCO::new(path).map_err(|error| match error {
        hotcoco::Error::Io(source) => DataError::Read { path: path.to_owned(), source: unprefixed(source, path) },
        other => not_coco(other.to_string()),
    })?;
    let file = std::mem::take(&mut coco.dataset);
    // Every list is optional to the parser, so any JSON object would pass as an empty data set.
    match (file.images.is_empty(), file.categories.is_empty()) {
        (true, true) => Err(not_coco("it has neither images nor categories".to_owned())),
        (true, false) => Err(DataError::Empty { path: path.to_owned() }),
        (false, true) => Err(not_coco("it has no categories".to_owned())),
        (false, false) => Ok(file),
    }
}

/// hotcoco puts the path in front of the system's message, and so do we: once is enough.
fn unprefixed(error: std::io::Error, path: &Path) -> std::io::Error {
    let prefix = format!("cannot read {}: ", path.display());
    match error.to_string().strip_prefix(&prefix) {
        Some(rest) => std::io::Error::new(error.kind(), rest.to_owned()),
        None => error,
    }
}

fn index_by_id(ids: impl Iterator<Item = u64>, mut on_duplicate: impl FnMut(u64)) -> HashMap<u64, usize> {
    let mut index_of = HashMap::new();
    let mut reported = HashSet::new();
    for (index, id) in ids.enumerate() {
        if index_of.insert(id, index).is_some() && reported.insert(id) {
            on_duplicate(id);
        }
    }
    index_of
}

fn image_record(image: hotcoco::Image) -> ImageRecord {
    ImageRecord {
        id: image.id,
        file_name: image.file_name,
        size: ImageSize::new(image.height as usize, image.width as usize),
        is_annotated: false,
        annotations: Vec::new(),
    }
}

/// What Python, in which COCO's tools are written, takes for true: not 0, `false` or `null`.
fn is_true(value: &serde_json::Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_f64().map_or(!value.is_null(), |number| number != 0.0))
}

/// Converts an annotation of an image of `size`, or says why it cannot be used. Notes go to `findings`.
fn usable_annotation(
    annotation: hotcoco::Annotation,
    size: ImageSize,
    label_of: &HashMap<u64, usize>,
    findings: &mut Vec<Finding>,
) -> Result<Annotation, Finding> {
    let (image, id) = (annotation.image_id, annotation.id);
    let Some(&label) = label_of.get(&annotation.category_id) else {
        return Err(Finding::UnknownCategory { image, annotation: id, category: annotation.category_id });
    };
    let xywh = annotation.bbox.ok_or(Finding::NoBox { image, annotation: id })?;
    let sides = [("width", Some(xywh[2])), ("height", Some(xywh[3])), ("area", annotation.area)];
    for (what, value) in sides {
        if let Some(value) = value.filter(|value| value.is_nan() || *value <= 0.0) {
            return Err(Finding::ZeroArea { image, annotation: id, what, value });
        }
    }
    let full = BBox::from_xywh(xywh);
    let bbox = full.clip(size);
    if bbox.is_empty() {
        return Err(Finding::OutsideImage { image, annotation: id, bbox: xywh, size });
    }
    // Up to a pixel is how COCO rounds, not a mistake.
    let beyond = full.to_array().iter().zip(bbox.to_array()).any(|(edge, clipped)| (edge - clipped).abs() > 1.0);
    if beyond {
        findings.push(Finding::ClippedBox { image, annotation: id, bbox: xywh, size });
    }
    // Some files write an empty list where there is no mask.
    let segmentation =
        annotation.segmentation.filter(|segmentation| segmentation.polygons().is_none_or(|p| !p.is_empty()));
    let is_ignored = annotation.extra.get("ignore").is_some_and(is_true);
    Ok(Annotation { id, label, bbox, is_crowd: annotation.iscrowd, is_ignored, segmentation })
}
