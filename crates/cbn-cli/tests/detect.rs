//! `cbn detect` on folders: order, batches, what cannot be read, what must not be written over.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

mod common;

use std::path::Path;

use common::{SHAPES, TINY, cbn, fails, recipe, shapes, succeeds, text};

/// Sums over more pictures are rounded in another order: 1e-4 on scores up to 1 and on pixels up to 64.
#[track_caller]
fn assert_same_found(found: &serde_json::Value, expected: &serde_json::Value) {
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let (found, expected) = (list(found), list(expected));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found["category"], expected["category"]);
        let numbers = |value: &serde_json::Value| -> Vec<f64> {
            [&value["score"]].into_iter().chain(value["bbox"].as_array().unwrap()).filter_map(|n| n.as_f64()).collect()
        };
        let pairs = numbers(found).into_iter().zip(numbers(expected));
        pairs.for_each(|(found, expected)| assert!((found - expected).abs() < 1e-4, "{found}, expected {expected}"));
    }
}

#[test]
fn folders_are_searched_and_broken_pictures_are_told_while_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = shapes(dir.path());
    let run = text(&dir.path().join("run"));
    succeeds(&[&["train", &recipe(SHAPES), "--data", &data, "--work-dir", &run][..], &TINY].concat());
    let checkpoint = text(&dir.path().join("run/checkpoint_00000002.safetensors"));
    let images = Path::new(&data).join("images");
    std::fs::create_dir(images.join("more")).unwrap();
    std::fs::copy(images.join("train_00001.png"), images.join("more/train_00001.png")).unwrap();
    std::fs::write(images.join("train_00002.png"), "no picture").unwrap();
    // Of another size, in the middle of a batch.
    let part = image::open(images.join("train_00003.png")).unwrap().crop_imm(0, 0, 64, 31);
    part.save(images.join("train_00001_part.png")).unwrap();
    std::fs::write(images.join("notes.txt"), "no picture either").unwrap();
    let out = dir.path().join("out");

    let options = ["--score", "0.0", "--batch", "3", "--workers", "2", "--jsonl", "--out-dir"];
    let output = cbn(&[&["detect", &checkpoint, &text(&images)][..], &options, &[&text(&out)]].concat());
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("train_00002.png: ") && told.contains("1 of 8 pictures could not be used"), "{told}");
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|line| line["file_name"].as_str().unwrap()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!((names.len(), &names), (8, &sorted));
    assert_eq!(lines.iter().filter(|line| line.get("error").is_some()).count(), 1);
    assert!(out.join("train_00001.png").is_file() && out.join("more/train_00001.png").is_file());
    assert!(!out.join("train_00002.png").exists());
    let file: Vec<serde_json::Value> =
        serde_json::from_str(&std::fs::read_to_string(out.join("detections.json")).unwrap()).unwrap();
    assert_eq!(file, lines);

    // One by one and nothing written: the same detections, whatever they were batched with.
    let output = cbn(&["detect", &checkpoint, &text(&images), "--score", "0.0", "--jsonl"]);
    let alone = String::from_utf8(output.stdout).unwrap();
    assert_eq!(alone.lines().count(), lines.len());
    for (line, batched) in alone.lines().zip(&lines) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line.get("overlay").is_none());
        assert_same_found(&line["detections"], &batched["detections"]);
    }

    // Overlays of an earlier run within the folder are not looked at, and no picture becomes an overlay.
    let within = text(&images.join("out"));
    for _ in 0..2 {
        let output = cbn(&["detect", &checkpoint, &text(&images), "--jsonl", "--out-dir", &within]);
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), lines.len());
    }
    let picture = images.join("train_00001.png");
    let before = std::fs::read(&picture).unwrap();
    let message = fails(&["detect", &checkpoint, &text(&picture), "--out-dir", &text(&images)]);
    assert!(message.contains("train_00001.png would be written over a picture: name another --out-dir"), "{message}");
    assert_eq!(std::fs::read(&picture).unwrap(), before);
    assert!(fails(&["detect", &checkpoint, &text(dir.path()), &run, "--jsonl"]).contains("holds no JPEG or PNG files"));
}
