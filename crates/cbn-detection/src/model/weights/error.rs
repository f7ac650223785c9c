use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{StateMismatch, WeightLayout};

/// Weights that could not be loaded or written.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// None of the containers that weights come in.
    #[error("{}: weights are read from .safetensors, .pth, .pt and .pkl files", path.display())]
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
    /// Weights are written to one container only.
    #[error("{}: weights are written to .safetensors files; torch reads them by safetensors.torch.load_file", path.display())]
    OnlySafetensors {
        /// The file.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Tensors are views of less data: a hostile file, or one with shared or expanded tensors.
    #[error("{}: its tensors claim {claimed} bytes, the file has {size}; write it anew with every tensor cloned", path.display())]
    LargerThanFile {
        /// The file.
        path: PathBuf,
        /// Bytes of all tensors, as declared.
        claimed: u128,
        /// Bytes on the disk.
        size: u64,
    },
    /// A training that diverged, or a damaged file.
    #[error("{}: tensor {name} has a value that is not a finite number (of {len}, value {index} is {value})", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its number of values.
        len: usize,
        /// The place of the first such value.
        index: usize,
        /// NaN or infinity.
        value: f32,
    },
    /// No known library names tensors so.
    #[error(
        "none of the {len} tensors has a name as cbn, torchvision, mmdetection or detectron2 give them (the first is {first})"
    )]
    UnknownLayout {
        /// Number of tensors.
        len: usize,
        /// The alphabetically first name.
        first: String,
    },
    /// The file holds no floating-point tensor.
    #[error("there is no floating-point tensor in the file")]
    NoTensors,
    /// Weights of another model.
    #[error("the weights (names as in {layout}) are of another model: {mismatch:#}")]
    Mismatch {
        /// Whose names.
        layout: WeightLayout,
        /// The differences.
        mismatch: StateMismatch,
    },
    /// Weights of other classes.
    #[error(
        "the weights are for {found} classes, the model has {expected}: replace_class_heads starts the {} tensors of the class heads anew ({})",
        tensors.len(),
        tensors.join(", ")
    )]
    ClassCount {
        /// In the file.
        found: usize,
        /// In the model.
        expected: usize,
        /// Their names in the file.
        tensors: Vec<String>,
    },
    /// The network would see other features than it was trained on.
    #[error(
        "weights laid out as in {layout} are taken for Caffe's ResNet, which halves the resolution in the 1x1 convolution of a bottleneck; \
         this model does so in the 3x3 one: set model.backbone.stride_in_1x1 = true, or say that the weights are in PyTorch's or in Caffe2's style"
    )]
    StrideIn1x1 {
        /// Whose names.
        layout: WeightLayout,
    },
    /// The reverse.
    #[error(
        "the weights are of a ResNet in PyTorch's or in Caffe2's style, which halves the resolution in the 3x3 convolution of a bottleneck; this model does so \
         in the 1x1 one: set model.backbone.stride_in_1x1 = false, or say that the weights are in Caffe's style"
    )]
    StrideIn3x3,
}

impl WeightsError {
    pub(super) fn read(path: &Path, error: &impl std::fmt::Display) -> Self {
        Self::Read { path: path.to_owned(), reason: error.to_string() }
    }
}
