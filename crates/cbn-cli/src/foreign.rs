//! A detector whose weights another library trained.

use std::path::Path;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Device;
use cbn_detection::data::{Category, TransformConfig};
use cbn_detection::model::Detector;
use cbn_detection::model::weights::{BackboneStyle, LoadConfig, Loaded, StateDict};
use cbn_detection::recipe::{DataFacts, Recipe, resolve};
use cbn_detection::train::{Checkpoint, CheckpointError};

use crate::model_file::TrainedModel;

/// Whether a file is one of our checkpoints, which say themselves what they are of. A file that is not there is an error.
pub fn is_checkpoint(path: &Path) -> Result<bool> {
    std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if path.extension().is_none_or(|extension| extension != "safetensors") {
        return Ok(!path
            .extension()
            .is_some_and(|extension| ["pth", "pt", "pkl"].iter().any(|other| extension == *other)));
    }
    match Checkpoint::read_info(path) {
        Err(CheckpointError::NotACheckpoint { .. }) => Ok(false),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(true),
    }
}

/// Builds the recipe's detector for the classes that the weights know, and loads them.
pub fn load(
    path: &Path,
    recipe: &Recipe,
    categories: &[Category],
    config: &LoadConfig,
    device: &Device,
) -> Result<TrainedModel> {
    let weights = StateDict::read(path)?;
    let describe = || format!("cannot take the weights of {}", path.display());
    let found = config.num_classes(&weights).with_context(describe)?;
    let found = found.with_context(|| format!("{} holds no detector, but a backbone at most", path.display()))?;
    let categories =
        if config.replace_class_heads { categories.to_vec() } else { known_categories(found, categories)? };
    // A plan needs an epoch; nothing here trains.
    let plan = resolve(recipe, DataFacts { num_classes: categories.len(), iterations_per_epoch: 1 })?;
    let detector = Detector::init_to_load(&plan.model, device);
    let loaded = config.load_detector(detector, &weights).with_context(describe)?;
    check_pixels(config, &loaded, &plan.transform)?;
    report(&loaded);
    Ok(TrainedModel { detector: loaded.module.valid(), plan, categories })
}

/// The class of each of the weights' labels.
///
/// torchvision's published COCO weights have a label for every category id up to 90, ten of which no category has. Such weights keep
/// all of them: without them, the other scores would be others.
fn known_categories(found: usize, categories: &[Category]) -> Result<Vec<Category>> {
    if found == categories.len() {
        return Ok(categories.to_vec());
    }
    let are_ids = categories.iter().all(|category| (1..=found as u64).contains(&category.id));
    anyhow::ensure!(
        found > categories.len() && are_ids,
        "the weights know {found} classes and the annotations list {}: take annotations with the classes of the weights, or \
         start the class heads anew",
        categories.len()
    );
    let named = |id: u64| categories.iter().find(|category| category.id == id).cloned();
    Ok((1..=found as u64)
        .map(|id| named(id).unwrap_or_else(|| Category { id, name: format!("no category {id}") }))
        .collect())
}

/// The stem of a network in Caffe's style is converted for our default pixels.
pub fn check_pixels<M>(config: &LoadConfig, loaded: &Loaded<M>, transform: &TransformConfig) -> Result<()> {
    let usual = TransformConfig::default();
    let is_usual = transform.pixel_mean == usual.pixel_mean && transform.pixel_std == usual.pixel_std;
    let style = config.style.unwrap_or_else(|| BackboneStyle::usual(loaded.layout));
    anyhow::ensure!(
        style == BackboneStyle::Pytorch || is_usual,
        "weights in Caffe's style are converted to RGB with the default data.transform.pixel_mean and pixel_std, but the recipe has others"
    );
    Ok(())
}

/// Class heads are six tensors; a checkpoint has a velocity for every weight.
const MAX_NAMED: usize = 8;

/// Says on stderr what was not taken over.
pub fn report<M>(loaded: &Loaded<M>) {
    eprintln!("weights    names as in {}", loaded.layout);
    for (kind, names) in [("anew", &loaded.anew), ("unused", &loaded.unused)] {
        let more =
            if names.len() > MAX_NAMED { format!(" and {} more", names.len() - MAX_NAMED) } else { String::new() };
        if !names.is_empty() {
            eprintln!("{kind:<10} {}{more}", names[..names.len().min(MAX_NAMED)].join(", "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_category_ids_where_the_weights_know_more_classes_than_the_data() {
        let category = |id: u64| Category { id, name: format!("class {id}") };
        let of_data = [category(4), category(2)];
        let names = |found| {
            known_categories(found, &of_data).map(|known| known.into_iter().map(|c| c.name).collect::<Vec<_>>())
        };
        assert_eq!(names(2).unwrap(), ["class 4", "class 2"]);
        assert_eq!(names(4).unwrap(), ["no category 1", "class 2", "no category 3", "class 4"]);
        // An id beyond the weights' classes, or fewer classes than the data has.
        assert!(names(3).is_err() && names(1).is_err());
    }
}
