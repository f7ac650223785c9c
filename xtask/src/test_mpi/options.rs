//! The task's command line.

use std::path::PathBuf;

use crate::options::for_each;
use crate::process::workspace_root;

const USAGE: &str = "usage: cargo xtask test-mpi [--only CHECKS] [--kills 10] [--seed 0] [--dir target/test-mpi] [--program CBN]
       cargo xtask test-mpi --only throughput [--rounds 5] [--data DIR] [--dir target/test-mpi] [--program CBN]

Builds with the feature mpi, and starts what is built with mpirun (tools/install_mpi.sh). The checks:
  layers  the group itself, and norms over it; needs the crate cbn alone
  steps   the same steps on 1, 2 and 4 processes
  kills   --kills processes killed at random moments, trainings taken up again
  ends    a process asked to stop, a broken image, a loss that is no number
  images  cbn test and cbn detect
--program takes a built cbn instead of building it, and leaves out the layers. Prints a table; exit code 1 if something is not as docs/scaling.md says. All of
it takes some minutes on two cores.

The throughput is measured only when asked for, on an idle machine: recipes/nuclei_mask_rcnn_r18_cbn.toml with its window open, on 48 images of --data (the
recipe's COCO-format folder), each process bound to a core. In turn: one process, with the recipe's batch and half of it; two processes side by side
that exchange nothing, which is the most that two can do, and two that train together, each with the recipe's batch and each with half of it. Prints times,
images per second and their ratios to one process; nothing passes or fails. A round takes about two minutes.";

#[derive(Debug, PartialEq)]
pub struct Options {
    /// One of the checks; none for all.
    pub only: Option<String>,
    pub kills: usize,
    pub seed: u64,
    /// Of the throughput.
    pub rounds: usize,
    /// Of the throughput.
    pub data: PathBuf,
    pub dir: PathBuf,
    pub program: Option<PathBuf>,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            only: None,
            kills: 10,
            seed: 0,
            rounds: 5,
            data: workspace_root().join("../shared/data/nuclei_dsb2018"),
            dir: "target/test-mpi".into(),
            program: None,
        };
        for_each(arguments, USAGE, |given| {
            match given.name {
                "--only" => options.only = Some(given.text()),
                "--kills" => options.kills = given.number()?,
                "--seed" => options.seed = given.number()? as u64,
                "--rounds" => options.rounds = given.number()?,
                "--data" => options.data = given.path(),
                "--program" => options.program = Some(given.path()),
                "--dir" => options.dir = given.path(),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(options)
    }
}
