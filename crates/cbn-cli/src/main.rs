//! The `cbn` command.

// A command line prints: results to stdout, everything else to stderr.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the terminal's side")]

mod cli;
mod commands;
mod device;
mod foreign;
mod model_file;
mod output;
mod processes;
mod session;
mod signals;

use std::process::ExitCode;

use cbn::process_group::Peers;
use clap::Parser;

use cli::{Cli, Command};

/// Keeps large freed buffers mapped: with the system's allocator, faulting the pages of fresh feature maps in costs more
/// than the arithmetic on them. `MIMALLOC_ALLOW_THP=1` (its default) lets the kernel back them with huge pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cbn_kernels::keep_freed_memory();
    // As large as the main thread's.
    const STACK_BYTES: usize = 8 << 20;
    if let Err(error) = rayon::ThreadPoolBuilder::new().stack_size(STACK_BYTES).build_global() {
        eprintln!("cbn: cannot start the threads of the kernels: {error}");
        return ExitCode::FAILURE;
    }
    // On a thread of the pool, a kernel begins at once; from another it is handed over, and waking up again takes longer than
    // a small kernel does.
    rayon::scope(|_| run())
}

fn run() -> ExitCode {
    let command = Cli::parse().command;
    let peers = match processes::join() {
        Ok(peers) => peers,
        Err(error) => {
            eprintln!("cbn: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let is_shared = matches!(command, Command::Train(_) | Command::Test(_) | Command::Detect(_));
    if !is_shared && !peers.is_first() {
        // One process does it.
        return ExitCode::SUCCESS;
    }
    let result = match command {
        Command::Train(args) => return ended(commands::train::run(&args, &peers), &peers),
        Command::Demo(args) => commands::demo::run(&args),
        Command::Test(args) => commands::test::run(&args, &peers),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Detect(args) => commands::detect::run(&args, &peers),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Recipe(args) => commands::recipe::run(&args),
        Command::Data(args) => commands::data::run(&args),
    };
    ended(result.map(|()| ExitCode::SUCCESS), &peers)
}

fn ended(result: anyhow::Result<ExitCode>, peers: &Peers) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            processes::fail_together(&error, peers);
            ExitCode::FAILURE
        }
    }
}
