//! The command line's grammar.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use cbn_detection::data::DataPaths;
use cbn_detection::data::convert::AnnotationFormat;
use cbn_detection::eval::IouType;
use cbn_detection::model::weights::{BackboneStyle, WeightLayout};
use cbn_detection::recipe::Length;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device::DeviceKind;

/// Train, test and evaluate Faster and Mask R-CNN with Cross-Iteration Batch Normalization on COCO-format data.
#[derive(Debug, Parser)]
#[command(
    name = "cbn",
    version,
    after_help = "Exit codes: 0 done, 1 failed or found wrong, 2 wrong usage; 130 and 143: training was stopped by SIGINT or SIGTERM, and saved."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make pictures of shapes, train a small Mask R-CNN with CBN on them, evaluate, draw
    Demo(DemoArgs),
    /// Train a recipe
    Train(TrainArgs),
    /// Run a checkpoint, or weights of another library, over the validation images and score it
    Test(TestArgs),
    /// Score a COCO results file
    Eval(EvalArgs),
    /// Make a page (HTML) about a training run, or about several side by side
    Report(ReportArgs),
    /// Find objects in pictures: overlays and JSON
    Detect(DetectArgs),
    /// Turn weights of another library into a checkpoint, or a checkpoint into theirs
    Convert(ConvertArgs),
    /// Write a checkpoint's detector for another runtime
    Export(ExportArgs),
    /// Look at recipes
    #[command(subcommand)]
    Recipe(RecipeCommand),
    /// Check data sets, convert annotations, make a data set of shapes
    #[command(subcommand)]
    Data(DataCommand),
}

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
}

impl From<Style> for BackboneStyle {
    fn from(style: Style) -> Self {
        match style {
            Style::Pytorch => Self::Pytorch,
            Style::Caffe => Self::Caffe,
        }
    }
}

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_seed_is_the_last_override() {
        let cli = Cli::parse_from(["cbn", "train", "r.toml", "--seed", "7", "--set", "train.seed=3"]);
        let Command::Train(args) = cli.command else { panic!("not train") };
        assert_eq!(args.run.assignments(), ["train.seed=3", "train.seed=7"]);
    }
}
