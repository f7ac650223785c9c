//! The directory that a run writes to.

use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoint;
use super::{CheckpointError, Log, TrainError};

/// A directory that was found writable, before anything else of the run began.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    resume_from: Option<PathBuf>,
}

impl WorkDir {
    /// For a run from the start.
    ///
    /// # Errors
    ///
    /// The directory cannot be made or written to, or holds checkpoints of another run.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        match Self::probe(path)? {
            Some(_) => Err(TrainError::WorkDirInUse { path: path.to_owned() }),
            None => Ok(Self { path: path.to_owned(), resume_from: None }),
        }
    }

    /// For a run that goes on from the latest checkpoint here.
    ///
    /// # Errors
    ///
    /// The directory cannot be written to or holds no checkpoint.
    pub fn resume(path: &Path) -> Result<Self, TrainError> {
        match Self::probe(path)? {
            Some(latest) => Ok(Self { path: path.to_owned(), resume_from: Some(latest) }),
            None => Err(TrainError::NothingToResume { path: path.to_owned() }),
        }
    }

    fn probe(path: &Path) -> Result<Option<PathBuf>, TrainError> {
        let failed = |source| TrainError::WorkDir { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        // Permissions do not tell whether a file can be made here (root, read-only mounts): only making one does.
        let file = path.join(".writable");
        fs::write(&file, "").and_then(|()| fs::remove_file(&file)).map_err(failed)?;
        Ok(checkpoint::latest(path)?)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint to go on from; none for a run from the start.
    pub fn resume_from(&self) -> Option<&Path> {
        self.resume_from.as_deref()
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

    pub(super) fn open_log(&self) -> Result<Log, TrainError> {
        Ok(Log::open(&self.log_path())?)
    }

    pub(super) fn checkpoint_path(&self, iteration: usize) -> PathBuf {
        self.path.join(checkpoint::file_name(iteration))
    }

    /// The checkpoint with the most iterations.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn latest_checkpoint(&self) -> Result<Option<PathBuf>, CheckpointError> {
        checkpoint::latest(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(WorkDir::create(dir.path()).unwrap().resume_from(), None);
        for iteration in [5, 20, 10] {
            fs::write(dir.path().join(checkpoint::file_name(iteration)), "").unwrap();
        }
        fs::write(dir.path().join("checkpoint_00000099.unfinished"), "").unwrap();
        assert!(matches!(WorkDir::create(dir.path()), Err(TrainError::WorkDirInUse { .. })));
        let resumed = WorkDir::resume(dir.path()).unwrap();
        assert_eq!(resumed.resume_from(), Some(dir.path().join(checkpoint::file_name(20)).as_path()));
    }
}
