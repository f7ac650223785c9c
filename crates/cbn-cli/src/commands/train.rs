//! `cbn train`: train a recipe.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cbn_detection::recipe::Recipe;
use cbn_detection::train::WorkDir;

use crate::cli::TrainArgs;
use crate::output::expected;
use crate::output::progress::Progress;
use crate::session::{Session, recipe_name};

pub fn run(args: &TrainArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.run.assignments())?;
    let device = args.run.device.open()?;
    let path = args.work_dir.clone().unwrap_or_else(|| default_work_dir(&args.recipe));
    let work_dir = if args.resume { WorkDir::resume(&path)? } else { WorkDir::create(&path)? };
    let session = Session::open(&recipe, &args.data.paths(), work_dir, device)?;
    let detector = session.initial_detector()?;

    let mut progress = Progress::new(session.plan.train.num_iterations);
    session.trainer.train(detector, &mut |event| progress.show(&event))?;
    let last = progress.finish();

    let work_dir = &session.trainer.work_dir;
    let checkpoint = work_dir.latest_checkpoint()?.context("training ended without a checkpoint")?;
    println!("checkpoint {}", checkpoint.display());
    println!("log        {}", work_dir.log_path().display());
    if let (Some(expected), Some(metrics)) = (&session.plan.expected, last) {
        print!("{}", expected::compare(expected, &metrics));
    }
    Ok(())
}

fn default_work_dir(recipe: &Path) -> PathBuf {
    Path::new("work_dirs").join(recipe_name(recipe))
}
