//! The task's command line.

use std::path::PathBuf;

const USAGE: &str = "usage: cargo xtask test-mpi [--only CHECKS] [--kills 10] [--seed 0] [--dir target/test-mpi] [--program CBN]

Builds with the feature mpi, and starts what is built with mpirun (tools/install_mpi.sh). The checks:
  layers  the group itself, and norms over it; needs the crate cbn alone
  steps   the same steps on 1, 2 and 4 processes
  kills   --kills processes killed at random moments, trainings taken up again
  ends    a process asked to stop, a broken image, a loss that is no number
  images  cbn test and cbn detect
--program takes a built cbn instead of building it, and leaves out the layers. Prints a table; exit code 1 if something is not as docs/scaling.md says. All of
it takes some minutes on two cores.";

#[derive(Debug, PartialEq)]
pub struct Options {
    /// One of the checks; none for all.
    pub only: Option<String>,
    pub kills: usize,
    pub seed: u64,
    pub dir: PathBuf,
    pub program: Option<PathBuf>,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { only: None, kills: 10, seed: 0, dir: "target/test-mpi".into(), program: None };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(USAGE)?;
            let number = || value.parse::<usize>().map_err(|_| format!("{name} {value}: not a number\n{USAGE}"));
            match name.as_str() {
                "--only" => options.only = Some(value.clone()),
                "--kills" => options.kills = number()?,
                "--seed" => options.seed = number()? as u64,
                "--program" => options.program = Some(value.into()),
                "--dir" => options.dir = value.into(),
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_replace_their_defaults() {
        let parse = |text: &str| Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let options = parse("--kills 2 --only kills").unwrap();
        assert_eq!((options.kills, options.seed, options.only.as_deref()), (2, 0, Some("kills")));
        assert!(parse("--kills many").unwrap_err().starts_with("--kills many: not a number"));
        assert!(parse("--kills").is_err() && parse("--other 1").is_err());
    }
}
