//! The task's command line.

use std::path::PathBuf;

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
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(USAGE)?;
            let number = || value.parse::<usize>().map_err(|_| format!("{name} {value}: not a number\n{USAGE}"));
            match name.as_str() {
                "--kills" => options.kills = number()?,
                "--saves" => options.saves = number()?,
                "--seed" => options.seed = number()? as u64,
                "--dir" => options.dir = value.into(),
                "--program" => options.program = Some(value.into()),
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
        let options = parse("--kills 2 --program bin/cbn").unwrap();
        assert_eq!((options.kills, options.saves, options.program), (2, 10, Some("bin/cbn".into())));
        assert!(parse("--kills many").unwrap_err().starts_with("--kills many: not a number"));
        assert!(parse("--kills").is_err() && parse("--other 1").is_err());
    }
}
