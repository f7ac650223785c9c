//! `cbn recipe`: look at recipes.

use std::sync::Arc;

use anyhow::{Context, Result};
use cbn_detection::data::{DataPaths, Split, TrainLoader};
use cbn_detection::recipe::{DataFacts, Recipe, resolve, train_loader, transform};

use crate::cli::{RecipeArgs, RecipeCommand};
use crate::session::load_split;

pub fn run(command: &RecipeCommand) -> Result<()> {
    match command {
        RecipeCommand::Show(args) => show(args),
        RecipeCommand::Check(args) => check(args),
    }
}

fn show(args: &RecipeArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    let plan = resolve(&recipe, facts(args, &recipe)?)?;
    println!("{}", serde_json::to_string_pretty(&plan).context("the plan has no JSON form")?);
    Ok(())
}

fn check(args: &RecipeArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    let plan = resolve(&recipe, facts(args, &recipe)?)?;
    println!("{}: ok, {} iterations", args.recipe.display(), plan.train.num_iterations);
    Ok(())
}

fn facts(args: &RecipeArgs, recipe: &Recipe) -> Result<DataFacts> {
    let Some(dir) = &args.data else {
        let batch_size = recipe.train.batch_size.max(1);
        return Ok(DataFacts { num_classes: args.classes, iterations_per_epoch: args.images.div_ceil(batch_size) });
    };
    let dataset = Arc::new(load_split(&DataPaths::from_dir(dir), Split::Train)?);
    let loader = TrainLoader::new(dataset.clone(), transform(recipe), train_loader(recipe))?;
    Ok(DataFacts { num_classes: dataset.categories.len(), iterations_per_epoch: loader.batches_per_epoch() })
}
