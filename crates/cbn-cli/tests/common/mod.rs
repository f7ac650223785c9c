//! The command, and what it is tried on.

#![allow(dead_code, reason = "every test binary includes this file, not every one uses all of it")]

use std::path::Path;
use std::process::{Command, Output};

pub const SHAPES: &str = "shapes_mask_rcnn_r18_cbn.toml";

/// The demo's detector, but one that takes seconds.
pub const TINY: [&str; 8] = [
    "--set",
    "train.length={ iterations = 2 }",
    "--set",
    "train.batch_size=2",
    "--set",
    "train.evaluate_every={ iterations = 2 }",
    "--set",
    "data.transform.min_side_px=[64]",
];

pub fn cbn(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cbn")).args(arguments).output().unwrap()
}

#[track_caller]
pub fn succeeds(arguments: &[&str]) -> String {
    let output = cbn(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a failing command says; its exit code must be 1.
#[track_caller]
pub fn fails(arguments: &[&str]) -> String {
    let output = cbn(arguments);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

pub fn recipe(name: &str) -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name))
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub fn shapes(dir: &Path) -> String {
    let data = text(&dir.join("data"));
    succeeds(&["data", "synth", &data, "--train", "4", "--val", "2", "--size", "64", "--objects", "2"]);
    data
}
