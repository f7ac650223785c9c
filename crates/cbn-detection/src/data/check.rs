use rayon::prelude::*;
use serde::Serialize;

use super::image_file::read_rgb_of_size;
use super::{DataError, Dataset, Finding, ImageRecord, SplitPaths, mask};

/// What a split holds and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// Images in the JSON.
    pub num_images: usize,
    /// Images that a training uses.
    pub num_trainable_images: usize,
    /// Usable objects, crowds not counted.
    pub num_objects: usize,
    /// Crowd regions.
    pub num_crowds: usize,
    /// Objects of each class: name and count, in label order.
    pub objects_per_class: Vec<(String, usize)>,
    /// Everything noticed, the worst first.
    pub findings: Vec<Finding>,
}

/// Reads a split completely, every image and every mask, and lists all that a training would stumble on.
///
/// # Errors
///
/// If the annotation file cannot be read, is not COCO JSON, or lists no image.
pub fn check(paths: &SplitPaths) -> Result<CheckReport, DataError> {
    let dataset = Dataset::parse(&paths.annotations, &paths.images)?;
    let mut findings = dataset.findings().to_vec();
    let per_image: Vec<Vec<Finding>> = dataset.images.par_iter().map(|image| check_image(&dataset, image)).collect();
    findings.extend(per_image.into_iter().flatten());
    // Stable: within a severity, the order of the file is kept.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity()));
    let objects: Vec<_> = dataset.images.iter().flat_map(ImageRecord::objects).collect();
    let count = |label: usize| objects.iter().filter(|object| object.label == label).count();
    Ok(CheckReport {
        num_images: dataset.images.len(),
        num_trainable_images: dataset.trainable_images().len(),
        num_objects: objects.len(),
        num_crowds: dataset.images.iter().map(|image| image.annotations.len()).sum::<usize>() - objects.len(),
        objects_per_class: dataset.class_names().into_iter().enumerate().map(|(at, name)| (name, count(at))).collect(),
        findings,
    })
}

fn check_image(dataset: &Dataset, image: &ImageRecord) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = read_rgb_of_size(&dataset.image_path(image), image.size) {
        findings.push(Finding::BadImage { image: image.id, error });
    }
    for annotation in &image.annotations {
        match &annotation.segmentation {
            Some(segmentation) => {
                if let Err(error) = mask::validate(segmentation, image.size) {
                    let reason = error.to_string();
                    findings.push(Finding::BadSegmentation { image: image.id, annotation: annotation.id, reason });
                }
            }
            None if annotation.is_crowd => {}
            None => findings.push(Finding::NoMask { image: image.id, annotation: annotation.id }),
        }
    }
    if image.objects().next().is_none() {
        findings.push(Finding::NoObjects { image: image.id });
    }
    findings
}
