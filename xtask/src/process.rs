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
    if !run("cargo", &["build", "--release", "--bin", "cbn"]) {
        return Err("the program does not build".to_owned());
    }
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(workspace_root())
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let target = metadata["target_directory"].as_str().ok_or("cargo metadata names no target directory")?;
    Ok(Path::new(target).join("release/cbn"))
}
