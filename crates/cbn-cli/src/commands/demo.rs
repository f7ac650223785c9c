//! `cbn demo`: the whole way in a few minutes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Device;
use cbn_detection::data::synthetic::{SyntheticConfig, generate};
use cbn_detection::data::{DataPaths, Split, read_rgb};
use cbn_detection::recipe::Recipe;
use cbn_detection::train::WorkDir;

use super::detect::{detect_in, draw};
use crate::cli::DemoArgs;
use crate::model_file::TrainedModel;
use crate::output::progress::{advance, evaluation_bar};
use crate::output::scores;
use crate::session::{Limits, Session, load_split};

/// The recipe travels in the binary, so that the demo needs no file.
const RECIPE: &str = include_str!("../../../../recipes/shapes_mask_rcnn_r18_cbn.toml");
const RECIPE_NAME: &str = "shapes_mask_rcnn_r18_cbn.toml";
/// Held-out images.
const NUM_VAL: usize = 80;
const NUM_OVERLAYS: usize = 4;
/// Detections below this are not drawn.
const OVERLAY_SCORE: f64 = 0.5;

pub fn run(args: &DemoArgs) -> Result<()> {
    let began = Instant::now();
    let recipe = Recipe::parse(RECIPE, Path::new(RECIPE_NAME), &args.run.assignments())?;
    let device = args.run.device.open()?;
    let dir = args.work_dir.clone().unwrap_or_else(free_work_dir);
    let work_dir = WorkDir::create(&dir)?;

    let data = make_data(&dir, args.images, recipe.train.seed)?;
    println!("data       {} ({} images to learn from, {NUM_VAL} held out)", dir.join("data").display(), args.images);
    let session = Session::open(&recipe, &data, work_dir, device.clone(), Limits::default())?;
    let detector = session.initial_detector()?;
    let evaluator = &session.trainer.evaluator;
    let bar = evaluation_bar(evaluator.num_images());
    let (_, before) = evaluator.run(&detector.valid(), &device, &mut advance(&bar))?;
    bar.finish_and_clear();
    println!("before     {}", scores::short(&scores::metrics(&before)));

    let (_, after) = session.train(detector)?.evaluations.pop().context("training ended without an evaluation")?;
    println!("after      {}", scores::short(&after));

    let work_dir = &session.trainer.work_dir;
    let checkpoint = work_dir.latest_checkpoint()?.context("training ended without a checkpoint")?;
    for overlay in draw_overlays(&checkpoint, &data, &dir, &device)? {
        println!("picture    {}", overlay.display());
    }
    println!("checkpoint {}", checkpoint.display());
    println!("log        {}", work_dir.log_path().display());
    println!("{:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// The first of work_dirs/demo, demo-2, ... that does not exist: a second demo must not touch the first one's files.
fn free_work_dir() -> PathBuf {
    let candidates = std::iter::once("demo".to_owned()).chain((2..).map(|number| format!("demo-{number}")));
    let mut paths = candidates.map(|name| Path::new("work_dirs").join(name));
    paths.find(|path| !path.exists()).expect("there are endless candidates")
}

fn make_data(dir: &Path, num_train: usize, seed: u64) -> Result<DataPaths> {
    let dir = dir.join("data");
    generate(&dir, &SyntheticConfig { num_train, num_val: NUM_VAL, seed, ..SyntheticConfig::default() })?;
    Ok(DataPaths::from_dir(dir))
}

fn draw_overlays(checkpoint: &Path, data: &DataPaths, dir: &Path, device: &Device) -> Result<Vec<PathBuf>> {
    let model = TrainedModel::load(checkpoint, device)?;
    let val = load_split(data, Split::Val)?;
    let overlays = dir.join("overlays");
    std::fs::create_dir_all(&overlays).with_context(|| format!("cannot write to {}", overlays.display()))?;
    let mut paths = Vec::new();
    for image in val.images.iter().take(NUM_OVERLAYS) {
        let source = val.image_path(image);
        let picture = read_rgb(&source).with_context(|| format!("cannot use {}", source.display()))?;
        let found = detect_in(&model, &[&picture], device, OVERLAY_SCORE).concat();
        let path = overlays.join(&image.file_name).with_extension("png");
        draw(&model.categories, &picture, &found, &path)?;
        paths.push(path);
    }
    Ok(paths)
}
