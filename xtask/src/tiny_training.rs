//! A training of seconds, which is killed, stopped and taken up again.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::workspace_root;

/// Checkpoints after every third of these.
const NUM_ITERATIONS: usize = 12;

/// How often a running training is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// A tiny training: every kind of state (histories, velocities, averages, the best score), and an evaluation in its middle.
pub struct TinyTraining {
    cbn: PathBuf,
    pub data: PathBuf,
    log: PathBuf,
}

impl TinyTraining {
    /// Makes its data in `dir`.
    pub fn new(cbn: PathBuf, dir: &Path) -> Result<Self, String> {
        let training = Self { cbn, data: dir.join("data"), log: dir.join("log.txt") };
        let size = ["--train", "12", "--val", "4", "--size", "64", "--objects", "2"];
        let made = training.command().args(["data", "synth"]).arg(&training.data).args(size).status();
        match made {
            Ok(status) if status.success() => Ok(training),
            Ok(status) => Err(format!("cbn data synth ended with {status}")),
            Err(error) => Err(format!("cannot start {}: {error}", training.cbn.display())),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.cbn);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// What `cbn` is given to begin the training, or to go on with it.
    pub fn arguments(&self, work_dir: &Path) -> Vec<OsString> {
        let recipe = workspace_root().join("recipes/shapes_mask_rcnn_r18_cbn.toml");
        let mut arguments: Vec<OsString> = vec!["train".into(), recipe.into(), "--data".into(), (&self.data).into()];
        arguments.extend(["--work-dir".into(), work_dir.into()]);
        for assignment in [
            format!("train.length={{ iterations = {NUM_ITERATIONS} }}").as_str(),
            "train.batch_size=2",
            "train.warmup={ length = { iterations = 4 }, ratio = 0.1 }",
            "train.ema={ decay = 0.9 }",
            "train.evaluate_every={ iterations = 6 }",
            "train.checkpoint_every={ iterations = 3 }",
            "data.transform.min_side_px=[48, 64]",
            "data.transform.max_side_px=64",
        ] {
            arguments.extend(["--set".into(), assignment.into()]);
        }
        // A training that was killed before its first checkpoint has nothing to go on from.
        if has_checkpoint(work_dir) {
            arguments.push("--resume".into());
        }
        arguments
    }

    /// Begins the training, or goes on with it.
    pub fn start(&self, work_dir: &Path) -> Result<Child, String> {
        let failed = |error| format!("cannot start the training: {error}");
        let log = File::options().create(true).append(true).open(&self.log).map_err(failed)?;
        self.command().args(self.arguments(work_dir)).stderr(log).spawn().map_err(failed)
    }

    /// The last checkpoint of a training that nothing happens to.
    pub fn undisturbed(&self, work_dir: &Path) -> Result<Vec<u8>, String> {
        let mut child = self.start(work_dir)?;
        let status = child.wait().map_err(|error| format!("cannot wait for the training: {error}"))?;
        if !status.success() {
            return Err(format!("the undisturbed training ended with {status}: see {}", self.log.display()));
        }
        self.last_checkpoint(work_dir)
    }

    pub fn last_checkpoint_path(&self, work_dir: &Path) -> PathBuf {
        work_dir.join(format!("checkpoint_{NUM_ITERATIONS:08}.safetensors"))
    }

    pub fn last_checkpoint(&self, work_dir: &Path) -> Result<Vec<u8>, String> {
        let path = self.last_checkpoint_path(work_dir);
        fs::read(&path).map_err(|error| format!("{}: {error}; see {}", path.display(), self.log.display()))
    }
}

fn names(work_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(work_dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn has_checkpoint(work_dir: &Path) -> bool {
    names(work_dir).iter().any(|name| name.starts_with("checkpoint_") && name.ends_with(".safetensors"))
}

/// Whether a checkpoint is half written.
pub fn is_saving(work_dir: &Path) -> bool {
    names(work_dir).iter().any(|name| name.starts_with("checkpoint_0") && name.ends_with(".unfinished"))
}

/// Waits so long, or to the end of the training: then true. A training that fails is an error.
pub fn wait(child: &mut Child, time: Duration) -> Result<bool, String> {
    let began = Instant::now();
    while began.elapsed() < time {
        if has_ended(child)? {
            return Ok(true);
        }
        std::thread::sleep(LOOK);
    }
    Ok(false)
}

/// Waits until the training writes a checkpoint, after letting so many pass; true if it ends before.
pub fn wait_for_saving(child: &mut Child, work_dir: &Path, mut num_passed: usize) -> Result<bool, String> {
    loop {
        if has_ended(child)? {
            return Ok(true);
        }
        if is_saving(work_dir) {
            if num_passed == 0 {
                return Ok(false);
            }
            num_passed -= 1;
            while is_saving(work_dir) && !has_ended(child)? {
                std::thread::sleep(LOOK);
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn has_ended(child: &mut Child) -> Result<bool, String> {
    match child.try_wait().map_err(|error| format!("cannot look at the training: {error}"))? {
        None => Ok(false),
        Some(status) if status.success() => Ok(true),
        Some(status) => Err(format!("the training ended with {status}")),
    }
}
