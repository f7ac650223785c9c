//! `cbn test` and `cbn eval`.

use std::path::PathBuf;

use cbn_detection::eval::IouType;
use clap::{Args, ValueEnum};

use super::data::DataArgs;
use crate::device::DeviceKind;

#[derive(Debug, Args)]
pub struct TestArgs {
    /// Recipe file
    pub recipe: PathBuf,
    /// Checkpoint file; or weights that torchvision, mmdetection or detectron2 named (.pth, .pt, .pkl, .safetensors)
    pub checkpoint: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// What to score [default: all that the detector finds]
    #[arg(long, value_enum, num_args = 1..)]
    pub eval: Vec<EvalKind>,
    /// Take so many images only, the first ones
    #[arg(long, value_name = "N")]
    pub max_images: Option<usize>,
    /// The same as --set data.num_workers=N
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// The same as --set model.box_head.score_threshold=S: leave out detections below this
    #[arg(long, value_name = "S")]
    pub score_threshold: Option<f64>,
    /// The same as --set test.flip=true: look at each image mirrored as well, and merge what both show; takes twice as long
    #[arg(long)]
    pub flip: bool,
    /// Fail if a number of the recipe's [expected] is missed
    #[arg(long)]
    pub verify: bool,
    /// Write the detections as COCO results JSON
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Where the arithmetic happens
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    pub device: DeviceKind,
    /// Change a value of the recipe; may be given more than once
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

impl TestArgs {
    /// All overrides of the recipe.
    pub fn assignments(&self) -> Vec<String> {
        let workers = self.workers.map(|workers| format!("data.num_workers={workers}"));
        let score = self.score_threshold.map(|score| format!("model.box_head.score_threshold={score:?}"));
        let flip = self.flip.then(|| "test.flip=true".to_owned());
        self.set.iter().cloned().chain(workers).chain(score).chain(flip).collect()
    }
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// COCO annotations
    pub ground_truth: PathBuf,
    /// COCO results
    pub detections: PathBuf,
    /// What to score
    #[arg(long, value_enum, num_args = 1.., default_value = "bbox")]
    pub eval: Vec<EvalKind>,
    /// Detections per image and class that count, for the three recalls; the last holds for all else
    #[arg(long, num_args = 3, default_values_t = [1, 10, 100])]
    pub max_detections: Vec<usize>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What overlap is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EvalKind {
    /// Boxes
    Bbox,
    /// Masks
    Segm,
}

impl From<EvalKind> for IouType {
    fn from(kind: EvalKind) -> Self {
        match kind {
            EvalKind::Bbox => Self::Bbox,
            EvalKind::Segm => Self::Segm,
        }
    }
}
