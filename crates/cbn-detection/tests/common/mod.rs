//! Where the tests find their files.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::path::{Path, PathBuf};

/// A file or folder below `fixtures/`.
#[allow(dead_code, reason = "every test binary includes this file, not every one uses all of it")]
pub fn fixture(path: &str) -> PathBuf {
    workspace().join("fixtures").join(path)
}

/// A data set in `CBN_DATA_DIR`, or in `../shared/data` beside the workspace; none, with a message, if it is not there.
#[allow(dead_code, reason = "every test binary includes this file, not every one uses all of it")]
pub fn data_set(name: &str) -> Option<PathBuf> {
    let dir =
        std::env::var_os("CBN_DATA_DIR").map_or_else(|| workspace().join("../shared/data"), PathBuf::from).join(name);
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: {} is not there; set CBN_DATA_DIR", dir.display());
    None
}

/// An error with its causes, as the command prints it.
#[allow(dead_code, reason = "every test binary includes this file, not every one uses all of it")]
pub fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate lies in <workspace>/crates")
}
