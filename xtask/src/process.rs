//! Running other programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub fn run(program: &str, arguments: &[&str]) -> bool {
    println!("xtask: {program} {}", arguments.join(" "));
    match Command::new(program).args(arguments).current_dir(workspace_root()).status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("xtask: cannot start {program}: {error}");
            false
        }
    }
}

pub fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace root").to_path_buf()
}
