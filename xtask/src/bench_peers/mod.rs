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
mod table;

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

/// Prints each table as soon as it is there; whether every total reaches the ratio that is asked for.
fn measure(options: &Options) -> Result<bool, String> {
    let setup = Setup::make(options)?;
    let mut is_fast = true;
    for &kind in &options.tables {
        for table in measure_table(kind, &setup)? {
            println!("{}", table.markdown());
            println!("{}", load());
            for (name, ratio) in table.below(options.check_ratio) {
                println!("{name}: {ratio:.2} is below {}", options.check_ratio);
                is_fast = false;
            }
        }
    }
    Ok(is_fast)
}

/// What else the machine was doing, as far as Linux tells.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let processors = thread::available_parallelism().map_or(0, NonZero::get);
    let minute = load.split(' ').next().filter(|minute| !minute.is_empty()).unwrap_or("unknown");
    format!("Load of the last minute: {minute} on {processors} processors; above --threads others computed too.\n")
}

fn measure_table(kind: TableKind, setup: &Setup) -> Result<Vec<Table>, String> {
    match kind {
        TableKind::Conv => conv::measure(setup),
        TableKind::Layer => layer::measure(setup),
        TableKind::Detect => detector::measure_detect(setup),
        TableKind::Train => detector::measure_train(setup),
        TableKind::Eval => data::measure_eval(setup),
        TableKind::Data => data::measure_data(setup),
        TableKind::Start => detector::measure_start(setup),
    }
}
