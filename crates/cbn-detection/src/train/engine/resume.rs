//! Going on where a checkpoint was written.

use std::path::PathBuf;

use super::{Run, Trainer};
use crate::train::plan_difference::first_difference;
use crate::train::{Checkpoint, CheckpointError, Record, TrainError};

impl Trainer {
    /// Takes the newest intact checkpoint's state into the run.
    pub(super) fn restore(&self, run: &mut Run<'_>) -> Result<(), TrainError> {
        let (path, mut checkpoint) = self.newest_intact(run)?;
        if let Some((key, found, expected)) = first_difference(&checkpoint.info.plan, &self.plan, "") {
            return Err(TrainError::OtherPlan { path, key, found, expected });
        }
        self.take_own_statistics(run, &mut checkpoint)?;
        run.detector = checkpoint.restore_model(&path, run.detector.clone())?;
        let foreign = |names| CheckpointError::ForeignVelocities { path: path.clone(), names };
        run.sgd.restore(&run.detector, checkpoint.velocities).map_err(foreign)?;
        if let Some(ema) = &mut run.ema {
            ema.restore(&run.detector, checkpoint.averages).map_err(foreign)?;
        }
        run.iteration = checkpoint.info.iteration;
        run.saved = Some(run.iteration);
        run.best = checkpoint.info.best;
        run.began.1 = run.iteration;
        Ok(())
    }

    /// Where as many processes go on as wrote the checkpoint, each has its own statistics again; else all have those of the first.
    fn take_own_statistics(&self, run: &mut Run<'_>, checkpoint: &mut Checkpoint) -> Result<(), TrainError> {
        let mut others = std::mem::take(&mut checkpoint.others);
        let written_by = 1 + others.len();
        if written_by != self.peers.size() {
            return run.log(&Record::OtherProcesses { written_by, resumed_by: self.peers.size() });
        }
        if let Some(place) = self.peers.rank().checked_sub(1) {
            checkpoint.model.append(&mut others[place]);
        }
        Ok(())
    }

    fn newest_intact(&self, run: &mut Run<'_>) -> Result<(PathBuf, Checkpoint), TrainError> {
        let mut reasons = Vec::new();
        for path in self.work_dir.resume_from() {
            match Checkpoint::load(path) {
                Ok(checkpoint) => return Ok((path.clone(), checkpoint)),
                Err(error) => {
                    let reason = error.to_string();
                    run.log(&Record::SkippedCheckpoint { path: path.clone(), reason: reason.clone() })?;
                    reasons.push(reason);
                }
            }
        }
        Err(TrainError::NoIntactCheckpoint { path: self.work_dir.path().to_owned(), reasons })
    }
}
