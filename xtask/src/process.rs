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

/// The release build of this workspace's command.
pub fn built_cbn() -> Result<PathBuf, String> {
    built(&["--bin", "cbn"], "cbn")
}

/// The executable of this name that a release build with these arguments to cargo makes.
pub fn built(arguments: &[&str], name: &str) -> Result<PathBuf, String> {
    println!("xtask: cargo build --release {}", arguments.join(" "));
    let output = Command::new("cargo")
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args(arguments)
        .current_dir(workspace_root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err("the program does not build".to_owned());
    }
    let messages = output.stdout.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let executable = |message: serde_json::Value| {
        Some(PathBuf::from(message["executable"].as_str().filter(|_| message["target"]["name"] == name)?))
    };
    messages.filter_map(executable).next_back().ok_or_else(|| format!("cargo built no {name}"))
}
