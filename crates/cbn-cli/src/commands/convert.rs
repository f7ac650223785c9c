//! `cbn convert`: other libraries' weights to a checkpoint, a checkpoint to theirs.

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use cbn_detection::data::Dataset;
use cbn_detection::model::weights::{LoadConfig, WeightLayout, export_detector};
use cbn_detection::recipe::Recipe;
use cbn_detection::train::{Checkpoint, CheckpointInfo, NamedTensors, collect};

use crate::cli::ConvertArgs;
use crate::foreign;
use crate::model_file::TrainedModel;

pub fn run(args: &ConvertArgs) -> Result<()> {
    let device = Device::flex();
    let model = if foreign::is_checkpoint(&args.input)? && args.recipe.is_none() {
        TrainedModel::load(&args.input, &device)?
    } else {
        load_foreign(args, &device)?
    };
    let layout: WeightLayout = args.to.into();
    if layout == WeightLayout::Cbn {
        save_checkpoint(&model, &args.output)?;
    } else {
        let classes: Vec<&str> = model.categories.iter().map(|category| category.name.as_str()).collect();
        let classes = serde_json::to_string(&classes).context("the classes have no JSON form")?;
        let metadata = [("format", "pt".to_owned()), ("layout", layout.to_string()), ("classes", classes)];
        export_detector(&model.detector, layout).write(&args.output, &metadata)?;
    }
    println!("{}: names as in {layout}", args.output.display());
    Ok(())
}

fn load_foreign(args: &ConvertArgs, device: &Device) -> Result<TrainedModel> {
    let missing = |what: &str| format!("{} does not say what it is of: give --{what}", args.input.display());
    let recipe = args.recipe.as_ref().with_context(|| missing("recipe"))?;
    let annotations = args.annotations.as_ref().with_context(|| missing("annotations"))?;
    let recipe = Recipe::load(recipe, &args.set)?;
    let categories = Dataset::load(annotations, Path::new(""))?.categories;
    let config = LoadConfig {
        layout: args.from.layout(),
        style: args.style.map(Into::into),
        replace_class_heads: args.replace_class_heads,
    };
    foreign::load(&args.input, &recipe, &categories, &config, device)
}

fn save_checkpoint(model: &TrainedModel, path: &Path) -> Result<()> {
    let plan = serde_json::to_value(&model.plan).context("the plan has no JSON form")?;
    let (seed, categories) = (model.plan.train.seed, model.categories.clone());
    let info = CheckpointInfo { iteration: 0, seed, best: None, categories, plan };
    let checkpoint = Checkpoint {
        info,
        model: collect(&model.detector),
        velocities: NamedTensors::new(),
        averages: NamedTensors::new(),
        others: Vec::new(),
    };
    Ok(checkpoint.save(path)?)
}
