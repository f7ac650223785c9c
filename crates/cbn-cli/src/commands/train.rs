//! `cbn train`: train a recipe.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use cbn::process_group::Peers;
use cbn_detection::recipe::Recipe;
use cbn_detection::train::WorkDir;

use crate::cli::TrainArgs;
use crate::output::{expected, scores};
use crate::session::{Limits, Session, recipe_name};
use crate::signals::Signals;

pub fn run(args: &TrainArgs, peers: &Peers) -> Result<ExitCode> {
    let recipe = Recipe::load(&args.recipe, &args.assignments())?;
    let device = args.run.device.open()?;
    let path = args.work_dir.clone().unwrap_or_else(|| default_work_dir(&args.recipe));
    let work_dir = open_work_dir(&path, args.resume, peers)?;
    let limits =
        Limits { max_iterations: args.max_iterations, max_bad_images: args.max_bad_images, peers: peers.clone() };
    let session = Session::open(&recipe, &args.data.paths(), work_dir, device, limits)?;
    let detector = session.initial_detector()?;

    let signals = Signals::catch(&session.trainer.stop).context("cannot catch signals")?;
    let trained = session.train(detector)?;
    let code = signals.exit_code(peers);
    if !peers.is_first() {
        return Ok(code.unwrap_or(ExitCode::SUCCESS));
    }

    print!("{}", scores::history(&trained.evaluations));
    let work_dir = &session.trainer.work_dir;
    let checkpoint = work_dir.latest_checkpoint()?.context("training ended without a checkpoint")?;
    println!("checkpoint {}", checkpoint.display());
    if let Some(best) = work_dir.best_checkpoint() {
        println!("best       {}", best.display());
    }
    println!("log        {}", work_dir.log_path().display());
    if code.is_some() || trained.iteration < session.plan.train.num_iterations {
        println!("resume     {}", resume_command(&std::env::args().collect::<Vec<_>>()));
    }
    if let Some(code) = code {
        return Ok(code);
    }
    match (&session.plan.expected, trained.evaluations.last(), session.plan.train.evaluate_images) {
        (Some(_), Some(_), Some(_)) => {
            println!("not compared with [expected]: train.evaluate_images left images out; cbn test takes all");
        }
        (Some(expected), Some((_, metrics)), None) => print!("{}", expected::compare(expected, metrics).text),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Rank 0 opens it, the others follow.
fn open_work_dir(path: &Path, resume: bool, peers: &Peers) -> Result<WorkDir> {
    let opened = if !peers.is_first() {
        None
    } else if resume {
        Some(WorkDir::resume(path)?)
    } else {
        Some(WorkDir::create(path)?)
    };
    peers.barrier();
    Ok(match opened {
        Some(work_dir) => work_dir,
        None => WorkDir::follow(path, resume)?,
    })
}

fn default_work_dir(recipe: &Path) -> PathBuf {
    Path::new("work_dirs").join(recipe_name(recipe))
}

/// The command that was given, for a shell, with `--resume`.
fn resume_command(arguments: &[String]) -> String {
    let resume = "--resume".to_owned();
    let is_given = arguments.contains(&resume);
    let all: Vec<&str> = arguments.iter().chain((!is_given).then_some(&resume)).map(String::as_str).collect();
    shlex::try_join(all.iter().copied()).unwrap_or_else(|_| all.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resume_command_is_the_one_given_once_more() {
        let command =
            |arguments: &[&str]| resume_command(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            command(&["cbn", "train", "my recipe.toml", "--set", "train.length={ epochs = 1 }"]),
            "cbn train 'my recipe.toml' --set 'train.length={ epochs = 1 }' --resume"
        );
        assert_eq!(command(&["cbn", "train", "--resume", "r.toml"]), "cbn train --resume r.toml");
    }
}
