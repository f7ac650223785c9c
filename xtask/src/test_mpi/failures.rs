//! Processes that are killed, asked to stop, or meet what they cannot use.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::mpirun::{Ended, Job, LIMIT, signal};
use super::options::Options;
use super::table::Row;
use super::{Bench, LONG, RANKS, remove};
use crate::process::workspace_root;

impl Bench {
    /// Begins the tiny training, or goes on with it.
    fn start(&self, work_dir: &Path) -> Result<Job, String> {
        self.mpirun.start(RANKS, (&self.cbn, &self.training.arguments(work_dir)), work_dir)
    }

    /// The same to its end.
    pub fn finish(&self, work_dir: &Path) -> Result<(), String> {
        self.mpirun.run(RANKS, (&self.cbn, &self.training.arguments(work_dir)), work_dir).map(|_| ())
    }
}

/// Kills one process at a random moment, takes the training up again, and so on: it must end with the undisturbed one's last checkpoint.
pub fn killed(bench: &Bench, options: &Options) -> Result<Vec<Row>, String> {
    let reference = bench.training.last_checkpoint(&bench.undisturbed)?;
    let began = Instant::now();
    let again = bench.dir.join("undisturbed_again");
    bench.finish(&again)?;
    let length = began.elapsed();
    if !is_equal(bench, &again, &reference)? {
        return Err("two undisturbed trainings differ already".to_owned());
    }

    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let (mut num_kills, mut num_trainings, mut num_equal) = (0, 0, 0);
    let (mut slowest, mut unclear) = (Duration::ZERO, Vec::new());
    while num_kills < options.kills {
        let work_dir = bench.dir.join(format!("killed_{num_trainings}"));
        num_trainings += 1;
        while num_kills < options.kills {
            let moment = length.mul_f64(rng.random_range(0.0..1.0));
            let Some(ended) = killed_at(bench.start(&work_dir)?, moment, rng.random_range(0..RANKS))? else { break };
            num_kills += 1;
            slowest = slowest.max(ended.after);
            if !says_why(&ended) {
                unclear.push(ended.stderr);
            }
        }
        bench.finish(&work_dir)?;
        num_equal += usize::from(is_equal(bench, &work_dir, &reference)?);
    }
    unclear.iter().for_each(|text| println!("a killed job said:\n{text}"));
    let what = format!("{num_kills} kills of a process at random moments");
    let seconds = slowest.as_secs_f64();
    Ok(vec![
        Row::fact(
            format!("{what}: longest until the job had ended"),
            format!("{seconds:.1} s"),
            "30 s",
            slowest < LIMIT,
        ),
        Row::fact(
            format!("{what}: jobs that said so, once"),
            (num_kills - unclear.len()).to_string(),
            "all",
            unclear.is_empty(),
        ),
        Row::fact(
            format!("{what}: trainings that ended with the undisturbed checkpoint, bit for bit"),
            format!("{num_equal} of {num_trainings}"),
            "all",
            num_equal == num_trainings,
        ),
    ])
}

/// Whether a training ended with this checkpoint; then its directory, which is large, is removed.
fn is_equal(bench: &Bench, work_dir: &Path, reference: &[u8]) -> Result<bool, String> {
    let is_equal = bench.training.last_checkpoint(work_dir)? == reference;
    if is_equal {
        remove(work_dir)?;
    }
    Ok(is_equal)
}

/// None if the job had ended before.
fn killed_at(mut job: Job, moment: Duration, victim: usize) -> Result<Option<Ended>, String> {
    if job.has_ended_within(moment)? {
        return Ok(None);
    }
    let victim = loop {
        let mut processes = job.processes()?;
        if processes.len() == RANKS {
            break processes.swap_remove(victim);
        }
        // They have not all started, or are about to end.
        if job.has_ended_within(Duration::from_millis(1))? {
            return Ok(None);
        }
    };
    signal("KILL", &victim)?;
    let ended = job.wait(LIMIT)?;
    Ok((ended.code != Some(0)).then_some(ended))
}

/// Whether mpirun tells of the signal, and nothing else pretends to be the error.
fn says_why(ended: &Ended) -> bool {
    ended.stderr.matches("signal 9 (Killed)").count() == 1
        && !ended.stderr.contains("cbn (rank")
        && !ended.stderr.contains("panicked")
}

/// Requests to stop, broken images, losses that are no numbers.
pub fn ended(bench: &Bench) -> Result<Vec<Row>, String> {
    let mut rows = asked_to_stop(bench)?;
    let broken = bench.dir.join("broken");
    copy(&bench.training.data, &broken)?;
    let images = broken.join("images");
    let image = fs::read_dir(&images).ok().and_then(|mut entries| entries.find_map(Result::ok));
    let image = image.ok_or_else(|| format!("no image in {}", images.display()))?;
    fs::write(image.path(), "no picture").map_err(|error| format!("{}: {error}", image.path().display()))?;
    rows.push(failing(bench, "a broken image", &broken, &["train.length={ iterations = 12 }"])?);
    let settings = ["train.length={ iterations = 12 }", "train.learning_rate=1e30"];
    rows.push(failing(bench, "a loss that is no number", &bench.training.data, &settings)?);
    Ok(rows)
}

/// SIGTERM to one process after its first step.
fn asked_to_stop(bench: &Bench) -> Result<Vec<Row>, String> {
    let reference = bench.training.last_checkpoint(&bench.undisturbed)?;
    let mut rows = Vec::new();
    for rank in 0..RANKS {
        let work_dir = bench.dir.join(format!("stopped_{rank}"));
        let mut job = bench.start(&work_dir)?;
        while !fs::read_to_string(work_dir.join("log.jsonl")).unwrap_or_default().contains("\"event\":\"iteration\"") {
            if job.has_ended_within(Duration::from_millis(5))? {
                return Err(format!("the training ended before its first step: {}", job.wait(LIMIT)?.stderr));
            }
        }
        let process = job.processes()?.into_iter().nth(rank).ok_or("the job ended before it was asked to stop")?;
        signal("TERM", &process)?;
        let ended = job.wait(LIMIT)?;
        let log = fs::read_to_string(work_dir.join("log.jsonl")).unwrap_or_default();
        let is_saved = log.contains("\"event\":\"stopped\"");
        bench.finish(&work_dir)?;
        let is_equal = is_equal(bench, &work_dir, &reference)?;
        let found = format!(
            "{:.1} s, {}, code {}, {}",
            ended.after.as_secs_f64(),
            if is_saved { "saved" } else { "not saved" },
            ended.code.map_or("none".to_owned(), |code| code.to_string()),
            if is_equal { "resumed to the undisturbed checkpoint" } else { "resumed to another checkpoint" },
        );
        let passed = is_saved && ended.code == Some(143) && is_equal;
        rows.push(Row::fact(format!("SIGTERM to process {}", rank + 1), found, "saved, 143, resumes", passed));
    }
    Ok(rows)
}

/// A training that cannot go on.
fn failing(bench: &Bench, name: &str, data: &Path, settings: &[&str]) -> Result<Row, String> {
    let work_dir = bench.dir.join(name.replace(' ', "_"));
    let recipe = workspace_root().join("recipes/shapes_mask_rcnn_r18_cbn.toml");
    let mut arguments: Vec<OsString> = vec!["train".into(), recipe.into(), "--data".into(), data.into()];
    arguments.extend(["--work-dir".into(), (&work_dir).into()]);
    for setting in settings {
        arguments.extend(["--set".into(), setting.into()]);
    }
    // How long it takes to get there is not what is measured.
    let ended = bench.mpirun.start(RANKS, (&bench.cbn, &arguments), &work_dir)?.wait(LONG)?;
    let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("cbn")).collect();
    let found = format!("code {:?} after {:.1} s: {}", ended.code, ended.after.as_secs_f64(), errors.join(" / "));
    let passed = ended.code.is_some_and(|code| code != 0) && errors.len() == 1;
    remove(&work_dir)?;
    Ok(Row::fact(name, found, "an end with one error", passed))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |error| format!("cannot copy {} to {}: {error}", from.display(), to.display());
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)?.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target).map_err(failed)?;
        }
    }
    Ok(())
}
