//! `cbn report` and `cbn detect`: what people look at.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use crate::device::DeviceKind;

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Work directories of trainings; more than one are compared with the first
    #[arg(required = true, value_name = "RUN_DIR")]
    pub runs: Vec<PathBuf>,
    /// File to write [default: report.html in the work directory; of several runs, here]
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// Validation annotations, if they lie elsewhere than during training
    #[arg(long)]
    pub val_annotations: Option<PathBuf>,
    /// Validation images, if they lie elsewhere than during training
    #[arg(long)]
    pub val_images: Option<PathBuf>,
    /// Draws of the validation images for intervals
    #[arg(long, default_value_t = 1000)]
    pub bootstrap: usize,
    /// Best images to show, and as many worst
    #[arg(long, default_value_t = 4)]
    pub pictures: usize,
}

#[derive(Debug, Args)]
pub struct DetectArgs {
    /// Checkpoint file
    pub checkpoint: PathBuf,
    /// JPEG or PNG files, and folders whose pictures are taken, those of folders in them as well
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// Directory for the overlays and detections.json; pictures in it are not looked at
    #[arg(long, required_unless_present = "jsonl")]
    pub out_dir: Option<PathBuf>,
    /// Print a JSON object per picture and line as soon as it is done
    #[arg(long)]
    pub jsonl: bool,
    /// Draw nothing
    #[arg(long)]
    pub no_overlays: bool,
    /// Pictures that go through the detector together, as far as they are of one size: the detections are those of pictures one by one
    #[arg(long, default_value = "1")]
    pub batch: NonZeroUsize,
    /// Threads that read pictures ahead; RAYON_NUM_THREADS sets those of the arithmetic
    #[arg(long, default_value = "1")]
    pub workers: NonZeroUsize,
    /// Leave out detections below this
    #[arg(long, default_value_t = 0.5)]
    pub score: f64,
    /// Where the arithmetic happens
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    pub device: DeviceKind,
}
