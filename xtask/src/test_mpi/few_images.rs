//! Images that every setup of the throughput trains on, once in each epoch.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Of the wide images, and of all others: batches do not mix them. Multiples of every batch, so that none is filled up with images that come twice; about
/// one to two, as in the data.
const WIDE: usize = 16;
const OTHERS: usize = 32;

/// Of an epoch.
pub const NUM_IMAGES: usize = WIDE + OTHERS;

/// A data folder in `dir` with so many of the training images of `data`, spread evenly over its file.
pub fn folder(data: &Path, dir: &Path) -> Result<PathBuf, String> {
    let of = |error: std::io::Error| format!("cannot take images of {} to {}: {error}", data.display(), dir.display());
    let data = data.canonicalize().map_err(of)?;
    let own = dir.join("data");
    fs::create_dir_all(&own).map_err(of)?;
    symlink(data.join("images"), own.join("images")).map_err(of)?;
    fs::copy(data.join("val.json"), own.join("val.json")).map_err(of)?;
    let text = fs::read_to_string(data.join("train.json")).map_err(of)?;
    let mut file: Value = serde_json::from_str(&text).map_err(|error| of(error.into()))?;
    keep_some(&mut file).map_err(|reason| format!("{}: {reason}", data.join("train.json").display()))?;
    fs::write(own.join("train.json"), file.to_string()).map_err(of)?;
    Ok(own)
}

fn keep_some(file: &mut Value) -> Result<(), String> {
    let annotations = file["annotations"].as_array_mut().ok_or("no annotations")?;
    let with_objects: HashSet<u64> =
        annotations.iter().filter_map(|annotation| annotation["image_id"].as_u64()).collect();
    let images = file["images"].as_array_mut().ok_or("no images")?;
    images.retain(|image| image["id"].as_u64().is_some_and(|id| with_objects.contains(&id)));
    let is_wide = |image: &&Value| image["width"].as_u64() > image["height"].as_u64();
    let (wide, others): (Vec<&Value>, Vec<&Value>) = images.iter().partition(is_wide);
    let mut kept: Vec<Value> = Vec::new();
    for (group, num_kept) in [(wide, WIDE), (others, OTHERS)] {
        if group.len() < num_kept {
            return Err(format!("{} images of a shape, {num_kept} are needed", group.len()));
        }
        kept.extend((0..num_kept).map(|k| group[k * group.len() / num_kept].clone()));
    }
    let ids: HashSet<u64> = kept.iter().filter_map(|image| image["id"].as_u64()).collect();
    *images = kept;
    let annotations = file["annotations"].as_array_mut().ok_or("no annotations")?;
    annotations.retain(|annotation| annotation["image_id"].as_u64().is_some_and(|id| ids.contains(&id)));
    Ok(())
}
