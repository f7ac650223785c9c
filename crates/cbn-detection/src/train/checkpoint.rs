//! One file that holds a run: weights, norm state, velocities, and what they belong to.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::module_state::{self, NamedTensors};
use crate::data::Category;
use crate::model::weights::StateMismatch;

/// The layout that this version writes. A reader refuses any other.
const FORMAT_VERSION: u32 = 1;
/// The key of the safetensors metadata under which ours lies, as JSON.
const METADATA_KEY: &str = "cbn";
/// Velocities stand under their parameter's path behind this.
const VELOCITY_PREFIX: &str = "optimizer.velocity.";

/// What the tensors of a checkpoint belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointInfo {
    /// Finished iterations.
    pub iteration: usize,
    /// The run's seed.
    pub seed: u64,
    /// The data set's classes; the detector's labels are indices into this list.
    pub categories: Vec<Category>,
    /// The resolved recipe.
    pub plan: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    format_version: u32,
    #[serde(flatten)]
    info: serde_json::Value,
}

/// A run at the end of an iteration.
///
/// The file is a safetensors file. The model's tensors stand under their module paths, velocities under
/// `optimizer.velocity.` and the path of their parameter, everything else is JSON under the metadata key `cbn`.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What the tensors belong to.
    pub info: CheckpointInfo,
    /// Parameters, running statistics, histories.
    pub model: NamedTensors,
    /// The optimizer's velocities.
    pub velocities: NamedTensors,
}

impl Checkpoint {
    /// Writes the file under another name and renames it, so that `path` never holds half a checkpoint.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        let unfinished = path.with_extension("unfinished");
        let bytes = self.to_bytes()?;
        let write = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(&bytes)?;
            // The rename must not reach the disk before the data does.
            file.sync_all()?;
            fs::rename(&unfinished, path)
        };
        write().map_err(|source| CheckpointError::Write { path: path.to_owned(), source })
    }

    fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let velocities = self.velocities.iter().map(|(name, data)| (format!("{VELOCITY_PREFIX}{name}"), data));
        let tensors = self.model.iter().map(|(name, data)| (name.clone(), data)).chain(velocities);
        let views =
            tensors.map(|(name, data)| view(&name, data).map(|view| (name, view))).collect::<Result<Vec<_>, _>>()?;
        let info = serde_json::to_value(&self.info).expect("a checkpoint's info has string keys only");
        let metadata = serde_json::to_string(&Metadata { format_version: FORMAT_VERSION, info })
            .expect("a checkpoint's info has string keys only");
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), metadata)]);
        safetensors::serialize(views, Some(metadata)).map_err(CheckpointError::TooLarge)
    }

    /// Reads a file that [`Checkpoint::save`] wrote.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is cut off, is no checkpoint, or is one of another format version.
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        let bytes = fs::read(path).map_err(|source| CheckpointError::Read { path: path.to_owned(), source })?;
        let info = read_info(path, &bytes)?;
        let damaged = |source| CheckpointError::Damaged { path: path.to_owned(), source };
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let mut checkpoint = Self { info, model: NamedTensors::new(), velocities: NamedTensors::new() };
        for (name, view) in file.iter() {
            let data = data(name, &view)?;
            match name.strip_prefix(VELOCITY_PREFIX) {
                Some(parameter) => checkpoint.velocities.insert(parameter.to_owned(), data),
                None => checkpoint.model.insert(name.to_owned(), data),
            };
        }
        Ok(checkpoint)
    }

    /// Puts the model's tensors into a module.
    ///
    /// # Errors
    ///
    /// The module is of another architecture.
    pub fn restore_model<M: Module>(&mut self, path: &Path, module: M) -> Result<M, CheckpointError> {
        module_state::restore(module, std::mem::take(&mut self.model))
            .map_err(|mismatch| CheckpointError::OtherArchitecture { path: path.to_owned(), mismatch })
    }
}

/// The name of a checkpoint in its work directory.
pub fn file_name(iteration: usize) -> String {
    format!("checkpoint_{iteration:08}.safetensors")
}

/// The checkpoint of a work directory with the most iterations.
///
/// # Errors
///
/// The directory cannot be read.
pub fn latest(work_dir: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let failed = |source| CheckpointError::Read { path: work_dir.to_owned(), source };
    let mut found: Vec<(usize, PathBuf)> = Vec::new();
    for entry in fs::read_dir(work_dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.strip_prefix("checkpoint_").and_then(|name| name.strip_suffix(".safetensors"));
        if let Some(Ok(iteration)) = digits.map(str::parse) {
            found.push((iteration, path));
        }
    }
    Ok(found.into_iter().max().map(|(_, path)| path))
}

fn read_info(path: &Path, bytes: &[u8]) -> Result<CheckpointInfo, CheckpointError> {
    let damaged = |source| CheckpointError::Damaged { path: path.to_owned(), source };
    let foreign = || CheckpointError::NotACheckpoint { path: path.to_owned() };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let text = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA_KEY)).ok_or_else(foreign)?;
    let metadata: Metadata = serde_json::from_str(text).map_err(|_| foreign())?;
    if metadata.format_version != FORMAT_VERSION {
        return Err(CheckpointError::Version { path: path.to_owned(), found: metadata.format_version });
    }
    serde_json::from_value(metadata.info).map_err(|_| foreign())
}

fn view<'a>(name: &str, data: &'a TensorData) -> Result<TensorView<'a>, CheckpointError> {
    let unsupported = || CheckpointError::ElementType { name: name.to_owned(), found: format!("{:?}", data.dtype()) };
    let dtype = match data.dtype() {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        _ => return Err(unsupported()),
    };
    TensorView::new(dtype, data.shape().to_vec(), data.as_bytes()).map_err(|_| unsupported())
}

fn data(name: &str, view: &TensorView<'_>) -> Result<TensorData, CheckpointError> {
    let dtype = match view.dtype() {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        other => return Err(CheckpointError::ElementType { name: name.to_owned(), found: format!("{other:?}") }),
    };
    Ok(TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype))
}

/// A checkpoint that could not be written or taken.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The disk refused.
    #[error("cannot write checkpoint {}", path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk refused.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a whole safetensors file.
    #[error("{} is cut off or not a safetensors file; take an earlier checkpoint", path.display())]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What the reader met.
        source: SafeTensorError,
    },
    /// A safetensors file of someone else.
    #[error("{} is a safetensors file but not a checkpoint of cbn: its metadata has no valid \"{METADATA_KEY}\" entry", path.display())]
    NotACheckpoint {
        /// Which one.
        path: PathBuf,
    },
    /// Written by another version of this program.
    #[error("checkpoint {} has format {found}, this version reads format {FORMAT_VERSION}", path.display())]
    Version {
        /// Which one.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The detector is built differently.
    #[error("checkpoint {} is of another architecture: {mismatch}", path.display())]
    OtherArchitecture {
        /// Which one.
        path: PathBuf,
        /// The differences.
        mismatch: StateMismatch,
    },
    /// The optimizer's state belongs to other parameters.
    #[error("checkpoint {} has velocities of {} parameters that the model does not train, first {}", path.display(), names.len(), names[0])]
    ForeignVelocities {
        /// Which one.
        path: PathBuf,
        /// Their names, at least one.
        names: Vec<String>,
    },
    /// The list of tensors exceeds what the format allows.
    #[error("the format of checkpoints cannot hold this model: {0}")]
    TooLarge(SafeTensorError),
    /// A tensor that is neither float nor integer.
    #[error("tensor {name} has element type {found}, which checkpoints do not hold")]
    ElementType {
        /// Which one.
        name: String,
        /// Its type.
        found: String,
    },
}
