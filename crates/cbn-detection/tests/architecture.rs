//! The table "who may import whom" of ARCHITECTURE.md, read from the sources.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each room and the rooms that it may use.
const TABLE: [(&str, &[&str]); 8] = [
    ("structures", &[]),
    ("ops", &["structures"]),
    ("data", &["structures"]),
    ("model", &["structures", "ops"]),
    ("eval", &["structures", "data", "model"]),
    ("export", &["structures", "ops", "data", "model"]),
    ("train", &["structures", "data", "model", "eval"]),
    ("recipe", &["structures", "ops", "data", "model", "train"]),
];

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// A file without its unit tests and comments.
fn production_code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn identifier(text: &str) -> &str {
    let end = text.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(text.len());
    &text[..end]
}

/// The first names of all paths `crate::name` and `crate::{name, other::..}`.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => {
                rooms.insert(identifier(rest).to_owned());
            }
            Some(list) => rooms.extend(first_names(list)),
        }
    }
    rooms
}

/// The first name of each element of `a::{b, c}, d}`.
fn first_names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut depth, mut is_start) = (0, true);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            _ if is_start && character.is_alphabetic() => {
                names.push(identifier(&list[at..]).to_owned());
                is_start = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn rooms_use_only_the_rooms_of_the_table() {
    for (room, allowed) in TABLE {
        for path in rust_files(&source_dir().join(room)) {
            for used in rooms_used(&production_code(&path)) {
                // Files that know none of the rooms: whoever writes, or shares work with other processes, uses them.
                let is_common = used == "files" || used == "agree";
                let is_fine = used == room || is_common || allowed.contains(&used.as_str());
                assert!(is_fine, "{}: {room} must not use {used}", path.display());
            }
        }
    }
}

#[test]
fn the_table_has_every_room() {
    let mut rooms: Vec<String> = std::fs::read_dir(source_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    rooms.sort();
    let mut table: Vec<&str> = TABLE.iter().map(|(room, _)| *room).collect();
    table.sort_unstable();
    assert_eq!(rooms, table);
}

#[test]
fn recipes_take_configs_and_errors_from_the_other_rooms() {
    // One file has more: it knows every convention, and nothing else.
    let files = rust_files(&source_dir().join("recipe"));
    for path in files.iter().filter(|path| !path.ends_with("conventions.rs")) {
        for line in production_code(path).lines() {
            let Some((_, import)) = line.split_once("use crate::") else { continue };
            let (_, names) = import.split_once("::").unwrap();
            for name in names.trim_end_matches(';').trim_matches(['{', '}']).split(", ") {
                let is_fine = name.ends_with("Config") || name.ends_with("Error");
                assert!(is_fine, "{}: {name} is neither a config nor an error", path.display());
            }
        }
    }
}

#[test]
fn toml_is_known_to_recipes_and_hotcoco_to_data_and_evaluation() {
    for (library, rooms) in [("toml::", &["recipe"][..]), ("hotcoco::", &["data", "eval"])] {
        for (room, _) in TABLE.iter().filter(|(room, _)| !rooms.contains(room)) {
            for path in rust_files(&source_dir().join(room)) {
                assert!(!production_code(&path).contains(library), "{} uses {library}", path.display());
            }
        }
    }
}

#[test]
fn only_the_norm_crate_and_recipes_name_cross_iteration_norm() {
    for (room, _) in TABLE.iter().filter(|(room, _)| *room != "recipe") {
        for path in rust_files(&source_dir().join(room)) {
            assert!(!production_code(&path).contains("CrossIteration"), "{} asks for the norm", path.display());
        }
    }
}

#[test]
fn the_reader_of_paths_sees_braces_and_nesting() {
    let code = "use crate::data::{A, B};\nuse crate::{eval::{C, D}, ops, structures::E};\nlet x = crate::model::F;";
    let rooms: Vec<String> = rooms_used(code).into_iter().collect();
    assert_eq!(rooms, ["data", "eval", "model", "ops", "structures"]);
}
