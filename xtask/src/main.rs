//! The tasks of this workspace, in plain Rust: nothing to install.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "usage: cargo xtask TASK

tasks:
  check    formatting, clippy with warnings as errors, spelling (when typos is installed)
  test     the README's test command: cargo test --release --workspace
  ci       both, as .ci/run does";

fn main() -> ExitCode {
    let task = env::args().nth(1);
    let passed = match task.as_deref() {
        Some("check") => check(),
        Some("test") => test(),
        Some("ci") => check() && test(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs every check even when an earlier one failed, so that one run shows all there is to mend.
fn check() -> bool {
    let formatted = run("cargo", &["fmt", "--all", "--check"]);
    let linted = run(
        "cargo",
        // The release profile, because tests and the binary use it: one build of Burn serves all.
        &["clippy", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"],
    );
    let spelled = spelling();
    formatted && linted && spelled
}

fn test() -> bool {
    run("cargo", &["test", "--release", "--workspace"])
}

fn spelling() -> bool {
    if !is_installed("typos") {
        println!("xtask: spelling NOT checked, typos is not installed (cargo install typos-cli)");
        return true;
    }
    run("typos", &[])
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn run(program: &str, arguments: &[&str]) -> bool {
    println!("xtask: {program} {}", arguments.join(" "));
    match Command::new(program).args(arguments).current_dir(workspace_root()).status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("xtask: cannot start {program}: {error}");
            false
        }
    }
}

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace root").to_path_buf()
}
