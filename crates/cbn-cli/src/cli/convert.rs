//! `cbn convert` and `cbn export`: weights for others, and from them.

use std::path::PathBuf;

use cbn_detection::model::weights::{BackboneStyle, WeightLayout};
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Weights of another library (.pth, .pt, .pkl, .safetensors), or a checkpoint
    pub input: PathBuf,
    /// File to write, .safetensors
    pub output: PathBuf,
    /// Who named the tensors of INPUT
    #[arg(long, value_enum, default_value_t = SourceLayout::Auto)]
    pub from: SourceLayout,
    /// Whose names OUTPUT gets; cbn is a checkpoint
    #[arg(long, value_enum, default_value_t = Layout::Cbn)]
    pub to: Layout,
    /// Recipe of the detector that INPUT is of; a checkpoint needs none
    #[arg(long)]
    pub recipe: Option<PathBuf>,
    /// COCO annotations that list the classes; a checkpoint needs none
    #[arg(long)]
    pub annotations: Option<PathBuf>,
    /// Pixels and strides that the backbone was trained with [default: caffe for detectron2, else pytorch]
    #[arg(long, value_enum)]
    pub style: Option<Style>,
    /// Start what counts classes anew, with random weights
    #[arg(long)]
    pub replace_class_heads: bool,
    /// Change a value of the recipe; may be given more than once
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Checkpoint file
    pub checkpoint: PathBuf,
    /// File to write
    pub output: PathBuf,
    /// Which runtime's format
    #[arg(long, value_enum, default_value_t = ExportFormat::Onnx)]
    pub to: ExportFormat,
}

/// A format of other runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// ONNX, opset 17
    Onnx,
}

/// Whose names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// Ours
    #[value(alias = "safetensors")]
    Cbn,
    /// torchvision
    Torchvision,
    /// mmdetection before 2.0, the released CBN code
    Mmdet,
    /// mmdetection 2
    Mmdet2,
    /// detectron2
    Detectron2,
}

impl From<Layout> for WeightLayout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Cbn => Self::Cbn,
            Layout::Torchvision => Self::Torchvision,
            Layout::Mmdet => Self::Mmdet,
            Layout::Mmdet2 => Self::Mmdet2,
            Layout::Detectron2 => Self::Detectron2,
        }
    }
}

/// Whose names, unless they tell it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceLayout {
    /// Look at the names
    Auto,
    /// Ours
    #[value(alias = "safetensors")]
    Cbn,
    /// torchvision
    Torchvision,
    /// mmdetection before 2.0, the released CBN code
    Mmdet,
    /// mmdetection 2
    Mmdet2,
    /// detectron2
    Detectron2,
}

impl SourceLayout {
    pub fn layout(self) -> Option<WeightLayout> {
        match self {
            Self::Auto => None,
            Self::Cbn => Some(WeightLayout::Cbn),
            Self::Torchvision => Some(WeightLayout::Torchvision),
            Self::Mmdet => Some(WeightLayout::Mmdet),
            Self::Mmdet2 => Some(WeightLayout::Mmdet2),
            Self::Detectron2 => Some(WeightLayout::Detectron2),
        }
    }
}

/// How the backbone was trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// RGB pixels over ImageNet's standard deviation, stride in the 3x3 convolution
    Pytorch,
    /// BGR pixels as they are, stride in the first 1x1 convolution
    Caffe,
    /// BGR pixels as they are, stride in the 3x3 convolution
    Caffe2,
}

impl From<Style> for BackboneStyle {
    fn from(style: Style) -> Self {
        match style {
            Style::Pytorch => Self::Pytorch,
            Style::Caffe => Self::Caffe,
            Style::Caffe2 => Self::Caffe2,
        }
    }
}
