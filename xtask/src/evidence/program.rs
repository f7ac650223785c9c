//! The program that trains: one that is built, or what cargo makes of this workspace.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::process::workspace_root;

#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    file: OsString,
    arguments: Vec<String>,
}

impl Program {
    /// `cargo run` of a target, such as `--bin cbn`.
    pub fn cargo(target: &[&str]) -> Self {
        let arguments = ["run", "--release", "--quiet"].iter().chain(target).chain(&["--"]);
        Self { file: "cargo".into(), arguments: arguments.map(|&argument| argument.to_owned()).collect() }
    }

    pub fn built(file: PathBuf) -> Self {
        Self { file: file.into(), arguments: Vec::new() }
    }

    /// Runs it with more arguments in the workspace's root, and waits.
    pub fn run(&self, arguments: &[OsString]) -> Result<(), String> {
        let status = Command::new(&self.file)
            .args(&self.arguments)
            .args(arguments)
            .current_dir(workspace_root())
            .status()
            .map_err(|error| format!("cannot start {}: {error}", self.file.display()))?;
        if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", self.file.display())) }
    }
}
