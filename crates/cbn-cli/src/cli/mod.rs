//! The command line's grammar.

mod convert;
mod data;
mod show;
mod test;
mod train;

use clap::{Parser, Subcommand};

pub use convert::{ConvertArgs, ExportArgs, ExportFormat};
pub use data::{DataCheckArgs, DataCommand, DataConvertArgs, DataSynthArgs, RecipeArgs, RecipeCommand};
pub use show::{DetectArgs, ReportArgs};
pub use test::{EvalArgs, TestArgs};
pub use train::{DemoArgs, TrainArgs};

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
