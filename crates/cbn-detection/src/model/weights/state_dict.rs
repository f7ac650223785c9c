use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use pytorch_reader::{DType as TorchDType, PickleValue, PytorchReader};
use safetensors::{Dtype as SafeDType, SafeTensors};

use super::{WeightsError, caffe2, numpy_pickle};
use crate::files::write_atomically;

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

    /// Reads a `.safetensors` file, what `torch.save` wrote to a `.pth` or `.pt` file, or NumPy arrays that `pickle.dump` wrote to a
    /// `.pkl` file.
    ///
    /// A `.pkl` of Caffe2's names for a ResNet comes under detectron2's. Of a training's file with optimizer and options, the weights alone are read: what is under `state_dict` or `model`. Nothing in a
    /// pickle is ever called, and tensors are only made that the file has bytes for (half-precision ones are then widened to `f32`).
    ///
    /// # Errors
    ///
    /// The file cannot be read, its name ends in something else, it is not what its name says, its tensors claim more than it holds, or
    /// a weight is NaN or infinite.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let tensors = match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => read_safetensors(path),
            Some("pth" | "pt") => read_pytorch(path),
            Some("pkl") => numpy_pickle::read(path).map(caffe2::in_detectron2_names),
            _ => Err(WeightsError::UnknownFormat { path: path.to_owned() }),
        }?;
        for (name, data) in &tensors {
            check_finite(path, name, data)?;
        }
        Ok(Self { tensors: without_prefix(tensors, "module.") })
    }

    /// Writes a `.safetensors` file, which `safetensors.torch.load_file` reads. The file appears whole or not at all.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or its name ends in something else.
    pub fn write(&self, path: &Path, metadata: &[(&str, String)]) -> Result<(), WeightsError> {
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            return Err(WeightsError::OnlySafetensors { path: path.to_owned() });
        }
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let views = self.tensors.iter().map(|(name, data)| {
            let view = safetensors::tensor::TensorView::new(SafeDType::F32, data.shape().to_vec(), data.as_bytes());
            (name, view.expect("as many bytes as the shape says"))
        });
        let failed = |reason: String| WeightsError::Write { path: path.to_owned(), reason };
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| failed(error.to_string()))?;
        write_atomically(path, &bytes).map_err(|error| failed(error.to_string()))
    }

    /// Every tensor with its name, sorted by name; all hold `f32`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorData)> + Clone {
        self.tensors.iter().map(|(name, data)| (name.as_str(), data))
    }

    /// The first of `names` that is there, with its tensor.
    pub(super) fn first_of<'a>(&'a self, names: &[String]) -> Option<(&'a str, &'a TensorData)> {
        names.iter().find_map(|name| self.tensors.get_key_value(name)).map(|(name, data)| (name.as_str(), data))
    }
}

type Tensors = BTreeMap<String, TensorData>;

/// Strips what all names begin with, as those of a model that was saved inside its `DataParallel` do.
fn without_prefix(tensors: Tensors, prefix: &str) -> Tensors {
    if !tensors.keys().all(|name| name.starts_with(prefix)) {
        return tensors;
    }
    tensors.into_iter().map(|(name, data)| (name[prefix.len()..].to_owned(), data)).collect()
}

fn check_finite(path: &Path, name: &str, data: &TensorData) -> Result<(), WeightsError> {
    let values = data.as_slice::<f32>().expect("state dicts hold f32");
    let Some(index) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let (path, name) = (path.to_owned(), name.to_owned());
    Err(WeightsError::NotFinite { path, name, len: values.len(), index, value: values[index] })
}

fn read_safetensors(path: &Path) -> Result<Tensors, WeightsError> {
    let bytes = fs::read(path).map_err(|error| WeightsError::read(path, &error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| WeightsError::read(path, &error))?;
    let mut tensors = Tensors::new();
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
    Ok(tensors)
}

/// Keys under which trainings keep the weights beside the optimizer's state: mmdetection's and detectron2's.
const WEIGHT_KEYS: [&str; 2] = ["state_dict", "model"];

fn read_pytorch(path: &Path) -> Result<Tensors, WeightsError> {
    let reader = PytorchReader::new(path).map_err(|error| WeightsError::read(path, &error))?;
    let is_under = |name: &str, key: &str| name.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    let key = WEIGHT_KEYS.into_iter().find(|key| reader.tensors().keys().any(|name| is_under(name, key)));
    refuse_other_objects(path, key)?;
    let weights = reader.tensors().iter().filter(|(name, _)| key.is_none_or(|key| is_under(name, key)));
    let weights: Vec<_> = weights.collect();
    check_size(path, weights.iter().map(|(_, tensor)| tensor.byte_len()))?;
    let mut tensors = Tensors::new();
    for (name, tensor) in weights {
        let dtype = match tensor.dtype() {
            TorchDType::F64 => DType::F64,
            TorchDType::F32 => DType::F32,
            TorchDType::F16 => DType::F16,
            TorchDType::BF16 => DType::BF16,
            _ => continue,
        };
        let bytes = tensor.read().map_err(|error| WeightsError::read(path, &error))?;
        let name = key.map_or(name.as_str(), |key| &name[key.len() + 1..]);
        tensors.insert(name.to_owned(), to_f32(bytes, tensor.shape(), dtype));
    }
    Ok(tensors)
}

/// The reader leaves out what is no tensor, a call of some function for example. Among weights that must not go unsaid.
fn refuse_other_objects(path: &Path, key: Option<&str>) -> Result<(), WeightsError> {
    let value = PytorchReader::read_pickle_data(path, key).map_err(|error| WeightsError::read(path, &error))?;
    let PickleValue::Dict(entries) = value else { return Ok(()) };
    // An attribute of the dictionary: version numbers of the modules.
    for (name, value) in entries.into_iter().filter(|(name, _)| name != "_metadata") {
        let reason = match value {
            PickleValue::Unsupported(python_type) if python_type == "torch.Tensor" => continue,
            PickleValue::Unsupported(python_type) => {
                format!("{name} is no tensor but {python_type}; nothing was executed")
            }
            _ => format!("{name} is no tensor"),
        };
        return Err(WeightsError::read(path, &reason));
    }
    Ok(())
}

/// Tensors may be views that repeat the little that a file holds.
fn check_size(path: &Path, sizes: impl Iterator<Item = usize>) -> Result<(), WeightsError> {
    let claimed: u128 = sizes.map(|size| size as u128).sum();
    let size = fs::metadata(path).map_err(|error| WeightsError::read(path, &error))?.len();
    if claimed > u128::from(size) {
        return Err(WeightsError::LargerThanFile { path: path.to_owned(), claimed, size });
    }
    Ok(())
}

pub(super) fn to_f32(bytes: Vec<u8>, shape: &[usize], dtype: DType) -> TensorData {
    TensorData::from_bytes_vec(bytes, shape.to_vec(), dtype).convert::<f32>()
}
