//! `cbn test`: run a checkpoint, or weights of another library, over the validation images and score it.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result};
use cbn::process_group::Peers;
use cbn_detection::data::Split;
use cbn_detection::eval::{IouType, write_results};
use cbn_detection::model::weights::LoadConfig;
use cbn_detection::recipe::{DataFacts, Expected, Plan, Recipe, resolve};

use crate::cli::TestArgs;
use crate::foreign;
use crate::model_file::TrainedModel;
use crate::output::progress::{advance, evaluation_bar};
use crate::output::scores::Metrics;
use crate::output::{expected, scores};
use crate::session::{evaluator, iou_types, load_split};

pub fn run(args: &TestArgs, peers: &Peers) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.assignments())?;
    let device = args.device.open()?;
    if let Some(path) = args.out.as_ref().filter(|_| peers.is_first()) {
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut dataset = load_split(&args.data.paths(), Split::Val)?;
    dataset.images.truncate(args.max_images.unwrap_or(usize::MAX));
    let dataset = Arc::new(dataset);
    let model = if foreign::is_checkpoint(&args.checkpoint)? {
        TrainedModel::load_as(&args.checkpoint, |saved| plan_like(&recipe, &saved), &device)?
    } else {
        foreign::load(&args.checkpoint, &recipe, &dataset.categories, &LoadConfig::default(), &device)?
    };
    anyhow::ensure!(
        dataset.categories.iter().all(|category| model.categories.contains(category)),
        "checkpoint {} was trained on other categories than {} has",
        args.checkpoint.display(),
        dataset.annotations_path().display()
    );
    let category_ids = model.categories.iter().map(|category| category.id).collect();
    let evaluator = evaluator(&model.plan, dataset, kinds(args, &model.plan)?, peers)?.with_category_ids(category_ids);
    let bar = evaluation_bar(evaluator.num_images());
    let (detections, summaries) = evaluator.run(&model.detector, &device, &mut advance(&bar))?;
    bar.finish_and_clear();
    if !peers.is_first() {
        return Ok(());
    }
    if let Some(path) = &args.out {
        write_results(path, &detections)?;
    }
    scores::print(&summaries, args.json)?;
    verify(args, model.plan.expected.as_ref(), &scores::metrics(&summaries))
}

/// Says how the scores stand to the recipe's, and fails if that is asked for.
fn verify(args: &TestArgs, expected: Option<&Expected>, metrics: &Metrics) -> Result<()> {
    let Some(expected) = expected else {
        anyhow::ensure!(!args.verify, "--verify: {} has no [expected] to compare with", args.recipe.display());
        return Ok(());
    };
    let comparison = expected::compare(expected, metrics);
    if !args.json {
        print!("{}", comparison.text);
    }
    anyhow::ensure!(!args.verify || comparison.missed.is_empty(), "missed: {}", comparison.missed.join(", "));
    Ok(())
}

/// The recipe's plan, for the data set that the checkpoint was trained on.
fn plan_like(recipe: &Recipe, saved: &Plan) -> Result<Plan> {
    let facts =
        DataFacts { num_classes: saved.model.num_classes, iterations_per_epoch: saved.train.iterations_per_epoch };
    Ok(resolve(recipe, facts)?)
}

fn kinds(args: &TestArgs, plan: &Plan) -> Result<Vec<IouType>> {
    let possible = iou_types(plan);
    if args.eval.is_empty() {
        return Ok(possible);
    }
    let kinds: Vec<IouType> = args.eval.iter().map(|&kind| kind.into()).collect();
    anyhow::ensure!(
        kinds.iter().all(|kind| possible.contains(kind)),
        "--eval segm: {} has no [model.mask_head], so there are no masks to score",
        args.recipe.display()
    );
    Ok(kinds)
}
