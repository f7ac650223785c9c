//! Replays recordings of the released PyTorch CBN layer with the published preset and prints how far this layer is from them.
//!
//! `cargo run --release -p cbn --example replay -- FILES...`
//!
//! Per file the largest relative error (L2 norm, per tensor and step). Exits with 1 if one exceeds 2e-4, with 2 if a file
//! cannot be read. The layout of the files: `crates/cbn/tests/fixtures/README.md`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints")]

mod recording;

use std::path::PathBuf;
use std::process::ExitCode;

use recording::{COMPARED, Errors, Recording};

/// Both sides compute in f32, in other orders; a wrong definition shows at 1e-2 and above.
const TOLERANCE: f64 = 2e-4;

fn main() -> ExitCode {
    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if files.is_empty() {
        eprintln!("usage: replay FILES...    recordings of the released layer, *.safetensors");
        return ExitCode::from(2);
    }
    println!("{:<28}{}", "largest relative error", COMPARED.map(|name| format!("{name:>14}")).concat());
    let mut is_close = true;
    for file in files {
        let errors = match Recording::read(&file).and_then(|recording| recording.replay()) {
            Ok(errors) => errors,
            Err(error) => {
                eprintln!("{}: {error:#}", file.display());
                return ExitCode::from(2);
            }
        };
        is_close &= errors.largest() <= TOLERANCE;
        print_row(&file.file_stem().unwrap_or_default().to_string_lossy(), &errors);
    }
    if !is_close {
        eprintln!("some error exceeds {TOLERANCE:e}");
    }
    if is_close { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_row(name: &str, errors: &Errors) {
    println!("{name:<28}{}", errors.0.map(|error| format!("{error:>14.1e}")).concat());
}
