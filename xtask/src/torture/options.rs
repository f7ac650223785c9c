//! The task's command line.

use std::path::PathBuf;

use crate::options::for_each;

const USAGE: &str = "usage: cargo xtask torture [--kills 40] [--saves 10] [--seed 0] [--dir target/torture] [--program CBN]

Trains a tiny recipe to its end, then as often again, killed with SIGKILL: --kills trainings at random moments, --saves trainings while they
save. Each is resumed until it is done, and must end with the same last checkpoint, bit for bit. Exit code 1 if one does not.
--program takes a built cbn instead of building it.";

#[derive(Debug, PartialEq)]
pub struct Options {
    pub kills: usize,
    pub saves: usize,
    pub seed: u64,
    pub dir: PathBuf,
    pub program: Option<PathBuf>,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { kills: 40, saves: 10, seed: 0, dir: "target/torture".into(), program: None };
        for_each(arguments, USAGE, |given| {
            match given.name {
                "--kills" => options.kills = given.number()?,
                "--saves" => options.saves = given.number()?,
                "--seed" => options.seed = given.number()? as u64,
                "--dir" => options.dir = given.path(),
                "--program" => options.program = Some(given.path()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(options)
    }
}
