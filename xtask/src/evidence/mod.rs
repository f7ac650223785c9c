//! Trainings that compare norms, one result file a run: a table can be stopped at any time and taken up again.

pub mod cifar;
pub mod nuclei;
mod program;
pub mod table;

use std::path::{self, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use program::Program;

const USAGE: &str = "usage: cargo xtask evidence cifar|nuclei DATA [--minutes M] [--program FILE]

cifar   trains ResNet-20 on CIFAR-10 (DATA: the folder with data_batch_1.bin ..) for every norm, batch size, seed and rate of the tables
nuclei  trains Mask R-CNN R-18-FPN from random weights on Data Science Bowl 2018 (DATA: the folder with train.json ..) for every
        norm, batch size and seed, with \"cbn train\"

Each run leaves a file in docs/results/cifar/ or docs/results/nuclei/, and is not repeated if that is there. At the end the tables are
printed. A killed nuclei run goes on from its last checkpoint, a killed cifar run begins anew.

options:
  --minutes M      start no further run after M minutes
  --program FILE   a built cifar10 or cbn that does the training; otherwise cargo builds and runs it";

/// What is asked for.
struct Options {
    table: Table,
    data: PathBuf,
    budget: Budget,
    program: Program,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Cifar,
    Nuclei,
}

/// How long further runs may begin.
struct Budget {
    began: Instant,
    limit: Option<Duration>,
}

impl Budget {
    /// Says so when the time is over.
    fn is_over(&self) -> bool {
        let is_over = self.limit.is_some_and(|limit| self.began.elapsed() > limit);
        if is_over {
            println!("xtask: the time is over; the same command goes on");
        }
        is_over
    }
}

pub fn run(arguments: &[String]) -> ExitCode {
    let Some(options) = parse(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let result = match options.table {
        Table::Cifar => cifar::run(&options),
        Table::Nuclei => nuclei::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<Options> {
    let [table, data, rest @ ..] = arguments else { return None };
    let (table, mut program) = match table.as_str() {
        "cifar" => (Table::Cifar, Program::cargo(&["--example", "cifar10"])),
        "nuclei" => (Table::Nuclei, Program::cargo(&["--bin", "cbn"])),
        _ => return None,
    };
    let mut limit = None;
    for pair in rest.chunks(2) {
        match pair {
            [flag, minutes] if flag == "--minutes" => {
                limit = Some(Duration::from_secs(60 * minutes.parse::<u64>().ok()?))
            }
            [flag, file] if flag == "--program" => program = Program::built(path::absolute(file).ok()?),
            _ => return None,
        }
    }
    // The programs start in the workspace's root, wherever this one did.
    let data = path::absolute(data).ok()?;
    Some(Options { table, data, budget: Budget { began: Instant::now(), limit }, program })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_follow_table_and_data() {
        let options = parse(&words("nuclei /d --program /p --minutes 2")).expect("it is well-formed");
        assert_eq!((options.table, options.data), (Table::Nuclei, PathBuf::from("/d")));
        assert_eq!(options.budget.limit, Some(Duration::from_secs(120)));
        assert_eq!(options.program, Program::built("/p".into()));
    }

    #[test]
    fn what_is_not_understood_shows_the_usage() {
        for line in ["", "cifar", "coco d", "cifar d --minutes", "cifar d --minutes x", "cifar d --speed 3"] {
            assert!(parse(&words(line)).is_none(), "{line}");
        }
    }
}
