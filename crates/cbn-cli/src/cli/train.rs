//! `cbn demo` and `cbn train`.

use std::path::PathBuf;

use cbn_detection::recipe::Length;
use clap::Args;

use super::data::DataArgs;
use crate::device::DeviceKind;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Directory for data, checkpoints, log and pictures [default: the first free of work_dirs/demo, demo-2, ...]
    #[arg(long)]
    pub work_dir: Option<PathBuf>,
    /// Number of training images
    #[arg(long, default_value_t = 320)]
    pub images: usize,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Recipe file
    pub recipe: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// Directory for checkpoints and log [default: work_dirs/RECIPE]
    #[arg(long)]
    pub work_dir: Option<PathBuf>,
    /// Go on from the work directory's newest checkpoint that is whole
    #[arg(long)]
    pub resume: bool,
    /// The same as --set train.checkpoint_every=...: 100it or 2ep
    #[arg(long, value_name = "LENGTH")]
    pub checkpoint_every: Option<Length>,
    /// Stop, evaluated and saved, after so many iterations of the run; --resume can go on
    #[arg(long, value_name = "N")]
    pub max_iterations: Option<usize>,
    /// Bear so many training images that cannot be read; others take their places
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_bad_images: usize,
    #[command(flatten)]
    pub run: RunArgs,
}

impl TrainArgs {
    /// All overrides of the recipe.
    pub fn assignments(&self) -> Vec<String> {
        let checkpoint_every = self.checkpoint_every.map(|length| format!("train.checkpoint_every={length}"));
        self.run.assignments().into_iter().chain(checkpoint_every).collect()
    }
}

/// What training commands share.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where the arithmetic happens
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    pub device: DeviceKind,
    /// Change a value of the recipe; may be given more than once
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// The same as --set train.seed=N
    #[arg(long)]
    pub seed: Option<u64>,
}

impl RunArgs {
    /// All overrides, the seed's last.
    pub fn assignments(&self) -> Vec<String> {
        let seed = self.seed.map(|seed| format!("train.seed={seed}"));
        self.set.iter().cloned().chain(seed).collect()
    }
}
