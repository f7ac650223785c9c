//! One file that holds a run: weights, norm state, velocities, and what they belong to.

mod error;
mod hash;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, TensorData};
use safetensors::tensor::{Metadata as Header, TensorView};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};

pub use error::CheckpointError;
use hash::content_hash;

use super::module_state::{self, NamedTensors};
use crate::data::Category;
use crate::files::write_atomically;

/// The layout that this version writes. A reader refuses any other.
const FORMAT_VERSION: u32 = 2;
/// The key of the safetensors metadata under which ours lies, as JSON.
const METADATA_KEY: &str = "cbn";
/// Velocities stand under their parameter's path behind this.
const VELOCITY_PREFIX: &str = "optimizer.velocity.";
/// Averages of weights stand under their parameter's path behind this.
const AVERAGE_PREFIX: &str = "ema.";
/// What process r has otherwise than the first stands behind this, its number and a dot.
const RANK_PREFIX: &str = "rank";

/// What the tensors of a checkpoint belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointInfo {
    /// Finished iterations. With the seed it determines the place in the schedule, the order of the data and all that is random.
    pub iteration: usize,
    /// The run's seed.
    pub seed: u64,
    /// The best evaluation before this iteration.
    pub best: Option<BestScore>,
    /// The data set's classes; the detector's labels are indices into this list.
    pub categories: Vec<Category>,
    /// The resolved recipe.
    pub plan: serde_json::Value,
}

/// An evaluation that no earlier one reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestScore {
    /// Finished iterations.
    pub iteration: usize,
    /// `segm` if the detector finds masks, else `bbox`.
    pub metric: String,
    /// Its AP over IoU 0.50 to 0.95, 0 to 1.
    pub ap: f64,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    format_version: u32,
    /// Of all tensors and `info`.
    #[serde(default)]
    content_hash: String,
    /// That trained together.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    num_processes: usize,
    #[serde(flatten)]
    info: serde_json::Value,
}

fn one() -> usize {
    1
}

fn is_one(count: &usize) -> bool {
    *count == 1
}

/// A run at the end of an iteration.
///
/// The file is a safetensors file. The model's tensors stand under their module paths, velocities under `optimizer.velocity.` and the path of
/// their parameter, averages of weights under `ema.` and the same, statistics that process r has for itself under `rankR.` and their path; everything else is JSON under the metadata key `cbn`, with a hash of it all.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What the tensors belong to.
    pub info: CheckpointInfo,
    /// Parameters, running statistics, histories.
    pub model: NamedTensors,
    /// The optimizer's velocities.
    pub velocities: NamedTensors,
    /// Averages of the parameters, if the run takes them.
    pub averages: NamedTensors,
    /// Of each process after the first that trained, what it has otherwise than that one: statistics of norms that look at one process's maps.
    pub others: Vec<NamedTensors>,
}

impl Checkpoint {
    /// Writes the file so that `path` never holds half a checkpoint, see [`write_atomically`].
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        let bytes = self.to_bytes()?;
        write_atomically(path, &bytes).map_err(|source| CheckpointError::Write { path: path.to_owned(), source })
    }

    fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let named = [("", &self.model), (VELOCITY_PREFIX, &self.velocities), (AVERAGE_PREFIX, &self.averages)];
        let named = named.map(|(prefix, tensors)| (prefix.to_owned(), tensors)).into_iter();
        let of_others = (1..).zip(&self.others).map(|(rank, tensors)| (format!("{RANK_PREFIX}{rank}."), tensors));
        let mut tensors: Vec<(String, &TensorData)> = Vec::new();
        for (prefix, group) in named.chain(of_others) {
            tensors.extend(group.iter().map(|(name, data)| (format!("{prefix}{name}"), data)));
        }
        tensors.sort_by(|(first, _), (second, _)| first.cmp(second));
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, data)| view(name, data).map(|view| (name.as_str(), view)))
            .collect::<Result<_, _>>()?;
        let info = serde_json::to_value(&self.info).expect("a checkpoint's info has string keys only");
        let num_processes = 1 + self.others.len();
        let content_hash = content_hash(&description(num_processes, &info), &views);
        let metadata = Metadata { format_version: FORMAT_VERSION, content_hash, num_processes, info };
        let metadata = serde_json::to_string(&metadata).expect("a checkpoint's info has string keys only");
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), metadata)]);
        safetensors::serialize(views, Some(metadata)).map_err(CheckpointError::TooLarge)
    }

    /// Reads a file that [`Checkpoint::save`] wrote.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is cut off, is no checkpoint, is one of another format version, or is not what was written.
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        let bytes = fs::read(path).map_err(|source| CheckpointError::Read { path: path.to_owned(), source })?;
        let damaged = |source| CheckpointError::Damaged { path: path.to_owned(), source };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let metadata = metadata_of(path, &header)?;
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        check_hash(path, &metadata, &file)?;
        let others = vec![NamedTensors::new(); metadata.num_processes.saturating_sub(1)];
        let info = info_of(path, metadata)?;
        let [model, velocities, averages] = std::array::from_fn(|_| NamedTensors::new());
        let mut checkpoint = Self { info, model, velocities, averages, others };
        for (name, view) in file.iter() {
            let data = data(name, &view)?;
            if let Some((rank, tensor)) = of_rank(name) {
                let of_rank = rank.checked_sub(1).and_then(|place| checkpoint.others.get_mut(place));
                let of_rank = of_rank.ok_or_else(|| CheckpointError::NotACheckpoint { path: path.to_owned() })?;
                of_rank.insert(tensor.to_owned(), data);
            } else if let Some(parameter) = name.strip_prefix(VELOCITY_PREFIX) {
                checkpoint.velocities.insert(parameter.to_owned(), data);
            } else if let Some(parameter) = name.strip_prefix(AVERAGE_PREFIX) {
                checkpoint.averages.insert(parameter.to_owned(), data);
            } else {
                checkpoint.model.insert(name.to_owned(), data);
            }
        }
        Ok(checkpoint)
    }

    /// What the file says it is, without reading its tensors.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no checkpoint, or is one of another format version.
    pub fn read_info(path: &Path) -> Result<CheckpointInfo, CheckpointError> {
        let failed = |source| CheckpointError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let file_len = file.metadata().map_err(failed)?.len();
        let mut bytes = Vec::new();
        file.by_ref().take(8).read_to_end(&mut bytes).map_err(failed)?;
        let header_len = bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        file.take(header_len.min(file_len)).read_to_end(&mut bytes).map_err(failed)?;
        // `SafeTensors::read_metadata` wants the tensors as well.
        let header = serde_json::from_slice(bytes.get(8..).unwrap_or_default()).map_err(|error| {
            let source = SafeTensorError::InvalidHeaderDeserialization(error);
            CheckpointError::Damaged { path: path.to_owned(), source }
        })?;
        info_of(path, metadata_of(path, &header)?)
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

    /// The same for inference: of parameters that the run averages, the average.
    ///
    /// # Errors
    ///
    /// The module is of another architecture.
    pub fn restore_for_inference<M: Module>(&mut self, path: &Path, module: M) -> Result<M, CheckpointError> {
        self.model.append(&mut self.averages);
        self.restore_model(path, module)
    }
}

/// The process and the path of a tensor that is not the first process's.
fn of_rank(name: &str) -> Option<(usize, &str)> {
    let (rank, tensor) = name.strip_prefix(RANK_PREFIX)?.split_once('.')?;
    Some((rank.parse().ok()?, tensor))
}

fn metadata_of(path: &Path, header: &Header) -> Result<Metadata, CheckpointError> {
    let foreign = || CheckpointError::NotACheckpoint { path: path.to_owned() };
    let text = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA_KEY)).ok_or_else(foreign)?;
    let metadata: Metadata = serde_json::from_str(text).map_err(|_| foreign())?;
    if metadata.format_version != FORMAT_VERSION {
        return Err(CheckpointError::Version {
            path: path.to_owned(),
            found: metadata.format_version,
            expected: FORMAT_VERSION,
        });
    }
    Ok(metadata)
}

fn info_of(path: &Path, metadata: Metadata) -> Result<CheckpointInfo, CheckpointError> {
    serde_json::from_value(metadata.info).map_err(|_| CheckpointError::NotACheckpoint { path: path.to_owned() })
}

/// What the hash is over beside the tensors.
fn description(num_processes: usize, info: &serde_json::Value) -> String {
    if num_processes == 1 { info.to_string() } else { format!("{num_processes} processes: {info}") }
}

fn check_hash(path: &Path, metadata: &Metadata, file: &SafeTensors<'_>) -> Result<(), CheckpointError> {
    let mut views: Vec<(&str, TensorView<'_>)> = file.iter().collect();
    views.sort_by_key(|&(name, _)| name);
    if content_hash(&description(metadata.num_processes, &metadata.info), &views) == metadata.content_hash {
        return Ok(());
    }
    Err(CheckpointError::Altered { path: path.to_owned() })
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
