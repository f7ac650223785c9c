//! Times beside those of other libraries: the tables of docs/performance.md.
//!
//! Both sides are processes that do one repetition per line of input (`tools/bench/server.rs`, `server.py`). They are asked in
//! turn, so that whatever else the machine does hits both.

mod conv;
mod data;
mod detector;
mod layer;
mod options;
mod server;
mod setup;
pub mod table;

use std::fs;
use std::num::NonZero;
use std::process::ExitCode;
use std::thread;

use self::options::{Options, TableKind, USAGE};
use self::setup::Setup;
use self::table::Table;

/// Exit codes: 0 done, 1 a ratio is below `--check-ratio`, 2 nothing could be measured.
pub fn run(arguments: Vec<String>) -> ExitCode {
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match Options::parse(arguments).and_then(|options| measure(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("xtask: bench-peers: {fault}");
            ExitCode::from(2)
        }
    }
}

/// Whether every total reaches the ratio that is asked for.
fn measure(options: &Options) -> Result<bool, String> {
    let setup = Setup::make(options)?;
    let mut report = Report { check_ratio: options.check_ratio, is_fast: true };
    for &kind in &options.tables {
        measure_table(kind, &setup, &mut report)?;
    }
    Ok(report.is_fast)
}

fn measure_table(kind: TableKind, setup: &Setup, report: &mut Report) -> Result<(), String> {
    match kind {
        TableKind::Conv => conv::measure(setup, report),
        TableKind::Layer => layer::measure(setup, report),
        TableKind::Detect => detector::measure_detect(setup, report),
        TableKind::Train => detector::measure_train(setup, report),
        TableKind::Eval => data::measure_eval(setup, report),
        TableKind::Data => data::measure_data(setup, report),
        TableKind::Start => detector::measure_start(setup, report),
    }
}

/// Where finished tables go.
struct Report {
    check_ratio: f64,
    is_fast: bool,
}

impl Report {
    /// Prints and checks a table.
    fn add(&mut self, table: &Table) {
        println!("{}\n{}", table.markdown(), load());
        for (name, ratio) in table.below(self.check_ratio) {
            println!("{name}: {ratio:.2} is below {}", self.check_ratio);
            self.is_fast = false;
        }
    }
}

/// What else the machine was doing, as far as Linux tells.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let processors = thread::available_parallelism().map_or(0, NonZero::get);
    let minute = load.split(' ').next().filter(|minute| !minute.is_empty()).unwrap_or("unknown");
    format!("Load of the last minute: {minute} on {processors} processors; above --threads others computed too.\n")
}
