//! What a change must pass.

use crate::process::{is_installed, run};

/// Runs every check even when an earlier one failed, so that one run shows all there is to mend.
pub fn check() -> bool {
    let formatted = run("cargo", &["fmt", "--all", "--check"]);
    let linted = run(
        "cargo",
        // The release profile, because tests and the binary use it: one build of Burn serves all.
        &["clippy", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"],
    );
    let spelled = spelling();
    formatted && linted && spelled
}

pub fn test() -> bool {
    run("cargo", &["test", "--release", "--workspace"])
}

fn spelling() -> bool {
    if !is_installed("typos") {
        println!("xtask: spelling NOT checked, typos is not installed (cargo install typos-cli)");
        return true;
    }
    run("typos", &[])
}
