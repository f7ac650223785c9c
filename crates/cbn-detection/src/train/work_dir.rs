//! The directory that a run writes to.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{BestScore, CheckpointError, JsonLines, LogError, TrainError};
use crate::files::{self, write_atomically};

/// The best checkpoint so far.
const BEST: &str = "checkpoint_best.safetensors";
/// Held by the process that writes to the directory.
const LOCK: &str = ".lock";

/// A directory that was found writable, before anything else of the run began, and that no other process trains in.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    resume_from: Vec<PathBuf>,
    /// The lock ends with the process, however that ends.
    _lock: Option<File>,
}

impl WorkDir {
    /// For a run from the start.
    ///
    /// # Errors
    ///
    /// The directory cannot be made or written to, another process trains in it, or it holds checkpoints of another run.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let work_dir = Self::open(path)?;
        match work_dir.resume_from.is_empty() {
            true => Ok(work_dir),
            false => Err(TrainError::WorkDirInUse { path: path.to_owned() }),
        }
    }

    /// For a run that goes on from the latest checkpoint here that is whole.
    ///
    /// # Errors
    ///
    /// The directory cannot be written to, another process trains in it, or it holds no checkpoint.
    pub fn resume(path: &Path) -> Result<Self, TrainError> {
        let work_dir = Self::open(path)?;
        match work_dir.resume_from.is_empty() {
            true => Err(TrainError::NothingToResume { path: path.to_owned() }),
            false => Ok(work_dir),
        }
    }

    fn open(path: &Path) -> Result<Self, TrainError> {
        let failed = |source| TrainError::WorkDir { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        // Permissions do not tell whether a file can be made here (root, read-only mounts): only making one does.
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(TrainError::WorkDirLocked { path: path.to_owned() }),
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::Unsupported => return Err(failed(error)),
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        remove_unfinished(path).map_err(failed)?;
        let resume_from = checkpoints(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), resume_from, _lock: Some(lock) })
    }

    /// For the other processes of a run, after rank 0 has opened the directory: they read checkpoints and write nothing.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn follow(path: &Path, resumes: bool) -> Result<Self, TrainError> {
        let failed = |source| TrainError::WorkDir { path: path.to_owned(), source };
        let resume_from = if resumes { checkpoints(path).map_err(failed)? } else { Vec::new() };
        Ok(Self { path: path.to_owned(), resume_from, _lock: None })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the run goes on from a checkpoint.
    pub fn resumes(&self) -> bool {
        !self.resume_from.is_empty()
    }

    /// The checkpoints to go on from, the one with the most iterations first; none for a run from the start.
    pub fn resume_from(&self) -> &[PathBuf] {
        &self.resume_from
    }

    /// The run's log.
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log.jsonl")
    }

    /// What the run was made of, see [`super::RunInfo`].
    pub fn run_info_path(&self) -> PathBuf {
        self.path.join("run.json")
    }

    /// What the last evaluation found, as COCO results.
    pub fn detections_path(&self) -> PathBuf {
        self.path.join("detections.json")
    }

    /// Opens the run's log.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn log(&self) -> Result<JsonLines, LogError> {
        JsonLines::open(&self.log_path())
    }

    /// Where the run's curves for TensorBoard go.
    pub fn tensorboard_path(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    pub(super) fn checkpoint_path(&self, iteration: usize) -> PathBuf {
        self.path.join(file_name(iteration))
    }

    /// The checkpoint with the most iterations.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn latest_checkpoint(&self) -> Result<Option<PathBuf>, CheckpointError> {
        let failed = |source| CheckpointError::Read { path: self.path.clone(), source };
        Ok(checkpoints(&self.path).map_err(failed)?.into_iter().next())
    }

    /// The checkpoint with the best AP, if any was evaluated.
    pub fn best_checkpoint(&self) -> Option<PathBuf> {
        Some(self.path.join(BEST)).filter(|path| path.exists())
    }

    /// Removes all numbered checkpoints but those with the most iterations.
    pub(super) fn rotate(&self, num_kept: usize) -> Result<(), CheckpointError> {
        let failed = |path: &Path, source| CheckpointError::Read { path: path.to_owned(), source };
        let all = numbered(&self.path).map_err(|source| failed(&self.path, source))?;
        all.iter().skip(num_kept).try_for_each(|path| fs::remove_file(path).map_err(|source| failed(path, source)))
    }

    /// Makes a written checkpoint the best one as well.
    pub(super) fn keep_as_best(&self, best: &BestScore) -> Result<(), CheckpointError> {
        let (checkpoint, path) = (self.checkpoint_path(best.iteration), self.path.join(BEST));
        let link = || {
            let unfinished = files::unfinished(&path);
            match fs::hard_link(&checkpoint, &unfinished) {
                Ok(()) => fs::rename(&unfinished, &path).and_then(|()| files::sync_directory_of(&path)),
                // A file system without links.
                Err(_) => fs::read(&checkpoint).and_then(|bytes| write_atomically(&path, &bytes)),
            }
        };
        link().map_err(|source| CheckpointError::Write { path: path.clone(), source })
    }
}

/// The name of a checkpoint in its work directory.
fn file_name(iteration: usize) -> String {
    format!("checkpoint_{iteration:08}.safetensors")
}

/// The numbered checkpoints, the one with the most iterations first, and the best one at the end.
fn checkpoints(work_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = numbered(work_dir)?;
    paths.extend(Some(work_dir.join(BEST)).filter(|path| path.exists()));
    Ok(paths)
}

fn numbered(work_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<(usize, PathBuf)> = Vec::new();
    for entry in fs::read_dir(work_dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.strip_prefix("checkpoint_").and_then(|name| name.strip_suffix(".safetensors"));
        if let Some(Ok(iteration)) = digits.map(str::parse) {
            found.push((iteration, path));
        }
    }
    found.sort_by(|first, second| second.cmp(first));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Removes what a killed process was writing.
fn remove_unfinished(work_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(work_dir)? {
        let path = entry?.path();
        if files::is_unfinished(&path) && path.is_file() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    fn write(dir: &Path, iterations: &[usize]) {
        for &iteration in iterations {
            fs::write(dir.join(file_name(iteration)), iteration.to_string()).unwrap();
        }
    }

    #[test]
    fn a_path_below_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let message = WorkDir::create(&file.join("run")).unwrap_err().to_string();
        assert!(message.starts_with("cannot write to work directory ") && message.contains("file/run"), "{message}");
    }

    #[test]
    fn checkpoints_are_neither_overwritten_nor_missed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(WorkDir::resume(dir.path()), Err(TrainError::NothingToResume { .. })));
        assert!(!WorkDir::create(dir.path()).unwrap().resumes());
        write(dir.path(), &[5, 20, 10]);
        let unfinished = dir.path().join("checkpoint_00000099.safetensors.unfinished");
        fs::write(&unfinished, "").unwrap();
        assert!(matches!(WorkDir::create(dir.path()), Err(TrainError::WorkDirInUse { .. })));
        let resumed = WorkDir::resume(dir.path()).unwrap();
        assert_eq!(names(resumed.resume_from()), [20, 10, 5].map(file_name));
        assert!(!unfinished.exists());
    }

    #[test]
    fn two_runs_do_not_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = WorkDir::create(dir.path()).unwrap();
        assert!(matches!(WorkDir::create(dir.path()), Err(TrainError::WorkDirLocked { .. })));
        drop(first);
        WorkDir::create(dir.path()).unwrap();
    }

    #[test]
    fn the_best_checkpoint_outlives_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let work_dir = WorkDir::create(dir.path()).unwrap();
        write(dir.path(), &[1, 2, 3, 4]);
        for iteration in [1, 2] {
            work_dir.keep_as_best(&BestScore { iteration, metric: "bbox".into(), ap: 0.5 }).unwrap();
        }
        work_dir.rotate(2).unwrap();
        assert_eq!(names(&numbered(dir.path()).unwrap()), [4, 3].map(file_name));
        assert_eq!(fs::read_to_string(work_dir.best_checkpoint().unwrap()).unwrap(), "2");
        assert_eq!(work_dir.latest_checkpoint().unwrap(), Some(dir.path().join(file_name(4))));
    }
}
