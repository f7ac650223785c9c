//! What a run was made of: `run.json` in its work directory.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TrainError;
use crate::data::{Category, Dataset};
use crate::files::write_atomically;

/// What a run was made of, so that a directory tells without its checkpoints.
///
/// A resumed run writes it anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Of this program.
    pub version: String,
    /// When this process took the run up, in seconds since 1970.
    pub started_at_s: u64,
    /// Where it ran.
    pub machine: Machine,
    /// The validation split's annotations.
    pub val_annotations: PathBuf,
    /// The folder of the validation images.
    pub val_images: PathBuf,
    /// Images that are learned from.
    pub num_train_images: usize,
    /// Images that are evaluated on.
    pub num_val_images: usize,
    /// The data set's classes.
    pub categories: Vec<Category>,
    /// The resolved recipe.
    pub plan: Value,
}

/// The computer of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// "linux", "macos", "windows".
    pub os: String,
    /// "x86_64", "aarch64".
    pub architecture: String,
    /// The processor's name, where the system tells.
    pub cpu: Option<String>,
    /// Threads that the processor runs at once.
    pub num_cores: usize,
    /// Threads of the kernels.
    pub num_threads: usize,
    /// Main memory, where the system tells.
    pub memory_mib: Option<u64>,
    /// Where the arithmetic happens.
    pub device: String,
}

impl Machine {
    /// This one.
    pub fn this(device: String) -> Self {
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            cpu: proc_entry("/proc/cpuinfo", "model name"),
            num_cores: std::thread::available_parallelism().map_or(1, usize::from),
            num_threads: rayon::current_num_threads(),
            memory_mib: proc_entry("/proc/meminfo", "MemTotal").and_then(|text| {
                let kib: u64 = text.split_whitespace().next()?.parse().ok()?;
                Some(kib / 1024)
            }),
            device,
        }
    }
}

impl RunInfo {
    pub(super) fn new(device: String, num_train_images: usize, val: &Dataset, plan: Value) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            machine: Machine::this(device),
            val_annotations: absolute(val.annotations_path()),
            val_images: absolute(val.images_dir()),
            num_train_images,
            num_val_images: val.images.len(),
            categories: val.categories.clone(),
            plan,
        }
    }

    pub(super) fn save(&self, path: &Path) -> Result<(), TrainError> {
        let text = serde_json::to_string_pretty(self).expect("a run's facts have string keys only");
        write_atomically(path, text.as_bytes())
            .map_err(|source| TrainError::WriteFile { path: path.to_owned(), source })
    }
}

/// The value of the first line `key : value` of one of Linux's files.
fn proc_entry(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let entry = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key)?;
    Some(entry.1.trim().to_owned())
}
