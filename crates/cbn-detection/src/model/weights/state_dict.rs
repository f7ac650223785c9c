use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use pytorch_reader::{DType as TorchDType, PytorchReader};
use safetensors::{Dtype as SafeDType, SafeTensors};
use thiserror::Error;

use super::StateMismatch;

/// The floating-point tensors of a file by name, as a PyTorch `state_dict` has them.
///
/// Integers (batch norm's `num_batches_tracked`) are left out: no layer here needs them.
#[derive(Clone, Debug, Default)]
pub struct StateDict {
    tensors: BTreeMap<String, TensorData>,
}

impl StateDict {
    /// Tensors of any floating-point type that are in memory.
    pub fn new(tensors: impl IntoIterator<Item = (String, TensorData)>) -> Self {
        Self { tensors: tensors.into_iter().map(|(name, data)| (name, data.convert::<f32>())).collect() }
    }

    /// Reads a `.safetensors` file, or what `torch.save` wrote to a `.pth` or `.pt` file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its name ends in something else.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => read_safetensors(path),
            Some("pth" | "pt") => read_pytorch(path),
            _ => Err(WeightsError::UnknownFormat { path: path.to_owned() }),
        }
    }

    /// Every tensor with its name, sorted by name; all hold `f32`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorData)> {
        self.tensors.iter().map(|(name, data)| (name.as_str(), data))
    }

    /// The first of `names` that is there, with its tensor.
    pub(super) fn first_of<'a>(&'a self, names: &[String]) -> Option<(&'a str, &'a TensorData)> {
        names.iter().find_map(|name| self.tensors.get_key_value(name)).map(|(name, data)| (name.as_str(), data))
    }
}

fn read_safetensors(path: &Path) -> Result<StateDict, WeightsError> {
    let bytes = fs::read(path).map_err(|error| WeightsError::read(path, &error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| WeightsError::read(path, &error))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let dtype = match view.dtype() {
            SafeDType::F64 => DType::F64,
            SafeDType::F32 => DType::F32,
            SafeDType::F16 => DType::F16,
            SafeDType::BF16 => DType::BF16,
            _ => continue,
        };
        tensors.insert(name.to_owned(), to_f32(view.data().to_vec(), view.shape(), dtype));
    }
    Ok(StateDict { tensors })
}

fn read_pytorch(path: &Path) -> Result<StateDict, WeightsError> {
    let reader = PytorchReader::new(path).map_err(|error| WeightsError::read(path, &error))?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in reader.tensors() {
        let dtype = match tensor.dtype() {
            TorchDType::F64 => DType::F64,
            TorchDType::F32 => DType::F32,
            TorchDType::F16 => DType::F16,
            TorchDType::BF16 => DType::BF16,
            _ => continue,
        };
        let bytes = tensor.read().map_err(|error| WeightsError::read(path, &error))?;
        tensors.insert(name.clone(), to_f32(bytes, tensor.shape(), dtype));
    }
    Ok(StateDict { tensors })
}

fn to_f32(bytes: Vec<u8>, shape: &[usize], dtype: DType) -> TensorData {
    TensorData::from_bytes_vec(bytes, shape.to_vec(), dtype).convert::<f32>()
}

/// Weights that could not be loaded.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// Neither safetensors nor PyTorch.
    #[error("{}: weights are read from .safetensors, .pth and .pt files", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// Missing, truncated, or not what its name says.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// In the words of the reader.
        reason: String,
    },
    /// Weights of another model.
    #[error("the weights are of another model: {0}")]
    Mismatch(StateMismatch),
}

impl WeightsError {
    fn read(path: &Path, error: &impl std::fmt::Display) -> Self {
        Self::Read { path: path.to_owned(), reason: error.to_string() }
    }
}
