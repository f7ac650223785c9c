//! `cbn recipe` and `cbn data`, and where data lies.

use std::path::PathBuf;

use cbn_detection::data::DataPaths;
use cbn_detection::data::convert::AnnotationFormat;
use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum RecipeCommand {
    /// Print every resolved number as JSON
    Show(RecipeArgs),
    /// Say whether a recipe is sound, and if not, which line is wrong
    Check(RecipeArgs),
}

#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Recipe file
    pub recipe: PathBuf,
    /// Change a value of the recipe; may be given more than once
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Take class count and epoch length from this data set
    #[arg(long, conflicts_with_all = ["images", "classes"])]
    pub data: Option<PathBuf>,
    /// Training images, where there is no data set to count [default: as COCO train2017]
    #[arg(long, default_value_t = 117_266)]
    pub images: usize,
    /// Classes, where there is no data set to count [default: as COCO]
    #[arg(long, default_value_t = 80)]
    pub classes: usize,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// List what a training would stumble on
    Check(DataCheckArgs),
    /// Turn VOC, YOLO or CVAT annotations into COCO's, or COCO's into theirs
    Convert(DataConvertArgs),
    /// Make a data set of simple shapes
    Synth(DataSynthArgs),
}

#[derive(Debug, Args)]
pub struct DataCheckArgs {
    /// Data directory: train.json, val.json, images/, or COCO's own layout
    pub dir: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Images stay where they are. A data directory is then: train.json, val.json and images/ (docs/data.md)."
)]
pub struct DataConvertArgs {
    /// Annotations: a JSON file (COCO), an XML file (CVAT for images 1.1), or a directory (VOC: Annotations/*.xml; YOLO: *.txt and data.yaml)
    pub input: PathBuf,
    /// What to write: a file for COCO and CVAT, a new directory for VOC and YOLO
    pub output: PathBuf,
    /// Format of the input
    #[arg(long, value_enum)]
    pub from: AnnotationFormatArg,
    /// Format of the output
    #[arg(long, value_enum, default_value_t = AnnotationFormatArg::Coco)]
    pub to: AnnotationFormatArg,
    /// Directory of the images, where annotations lack their sizes (YOLO) or extensions [default for VOC: INPUT/JPEGImages]
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Keep the images that a text file lists, such as VOC's ImageSets/Main/train.txt
    #[arg(long, value_name = "FILE")]
    pub only: Option<PathBuf>,
}

/// How annotations are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AnnotationFormatArg {
    Coco,
    Voc,
    Yolo,
    Cvat,
}

impl From<AnnotationFormatArg> for AnnotationFormat {
    fn from(format: AnnotationFormatArg) -> Self {
        match format {
            AnnotationFormatArg::Coco => Self::Coco,
            AnnotationFormatArg::Voc => Self::Voc,
            AnnotationFormatArg::Yolo => Self::Yolo,
            AnnotationFormatArg::Cvat => Self::Cvat,
        }
    }
}

#[derive(Debug, Args)]
pub struct DataSynthArgs {
    /// Directory to write to
    pub dir: PathBuf,
    /// Training images
    #[arg(long, default_value_t = 200)]
    pub train: usize,
    /// Validation images
    #[arg(long, default_value_t = 40)]
    pub val: usize,
    /// Sides of every image, in pixels
    #[arg(long, default_value_t = 128)]
    pub size: usize,
    /// Most objects on an image
    #[arg(long, default_value_t = 4)]
    pub objects: usize,
    /// The same seed draws the same data
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Where the data lies: a directory, single paths, or a directory with some paths replaced.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Data directory: train.json, val.json, images/, or COCO's own layout
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Training annotations
    #[arg(long)]
    pub train_annotations: Option<PathBuf>,
    /// Training images
    #[arg(long)]
    pub train_images: Option<PathBuf>,
    /// Validation annotations
    #[arg(long)]
    pub val_annotations: Option<PathBuf>,
    /// Validation images
    #[arg(long)]
    pub val_images: Option<PathBuf>,
}

impl DataArgs {
    pub fn paths(&self) -> DataPaths {
        DataPaths {
            dir: self.data.clone(),
            train_annotations: self.train_annotations.clone(),
            train_images: self.train_images.clone(),
            val_annotations: self.val_annotations.clone(),
            val_images: self.val_images.clone(),
        }
    }
}
