//! What both sides need before anything is timed: Python packages, built examples, prepared files.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::options::{Options, TableKind};
use super::server::{Program, Server};
use crate::process::workspace_root;

/// Where things are, and how they are run.
pub struct Setup {
    /// Of the virtual environment.
    python: PathBuf,
    /// Cargo's, with `release/examples` in it.
    target: PathBuf,
    threads: usize,
    pub repetitions: usize,
    /// How many of the prepared images objects are detected in.
    pub num_images: usize,
    pub data: PathBuf,
    is_quick: bool,
}

impl Setup {
    pub fn make(options: &Options) -> Result<Self, String> {
        if options.tables.iter().any(|table| table.needs_data()) && !options.data.join("val.json").is_file() {
            return Err(format!(
                "{} holds no train.json, val.json and images/; name a COCO-format folder with --data, or only the tables \
                 conv and layer, which need none",
                options.data.display()
            ));
        }
        let setup = Self {
            python: virtual_environment(options)?,
            target: target_folder()?,
            threads: options.threads,
            repetitions: options.repetitions,
            num_images: options.images,
            data: options.data.clone(),
            is_quick: options.is_quick,
        };
        setup.build(&options.tables)?;
        Ok(setup)
    }

    /// Our side: an example of one of the crates.
    pub fn example(&self, name: &str) -> Program {
        Program::new("ours", self.target.join("release/examples").join(name))
            .env("RAYON_NUM_THREADS", &self.threads.to_string())
    }

    /// A peer: a script of `tools/bench`.
    pub fn script(&self, label: &str, name: &str) -> Program {
        let threads = self.threads.to_string();
        Program::new(label, self.python.clone())
            .arg(workspace_root().join("tools/bench").join(name))
            .env("OMP_NUM_THREADS", &threads)
            .env("CBN_BENCH_THREADS", &threads)
    }

    /// A peer in every memory layout, with the system's allocator as it is and tuned. The fastest counts.
    pub fn variants(&self, name: &str) -> Vec<Program> {
        let variant = |label: &str, layout: &str| self.script(label, name).env("CBN_BENCH_LAYOUT", layout);
        let mut variants = vec![variant("channels-last, tuned malloc", "channels_last").with_tuned_malloc()];
        if !self.is_quick {
            variants.push(variant("channels-last", "channels_last"));
            variants.push(variant("NCHW, tuned malloc", "contiguous").with_tuned_malloc());
            variants.push(variant("NCHW", "contiguous"));
        }
        variants
    }

    /// Our example first, then a peer in all its variants.
    pub fn serve_all(&self, example: &str, script: &str) -> Result<Vec<Server>, String> {
        let mut servers = vec![self.example(example).serve()?];
        for mut variant in self.variants(script) {
            servers.push(variant.serve()?);
        }
        Ok(servers)
    }

    /// Files that `tools/bench/prepare.py` makes of the data: weights, lists of images, detections.
    pub fn prepared(&self) -> Result<PathBuf, String> {
        let folder = self.target.join("bench-peers");
        let complete = folder.join("complete");
        // Made from another data folder is as good as not made.
        if fs::read_to_string(&complete).is_ok_and(|data| Path::new(&data) == self.data) {
            return Ok(folder);
        }
        self.script("prepare", "prepare.py").arg(&self.data).arg(&folder).run()?;
        fs::write(&complete, self.data.display().to_string())
            .map_err(|error| format!("cannot write {}: {error}", complete.display()))?;
        Ok(folder)
    }

    /// The whole workspace, because features that Burn is built with depend on what is built beside it: this way the build
    /// that tests and the binary use serves here too. Convolutions do without Burn.
    fn build(&self, tables: &[TableKind]) -> Result<(), String> {
        let is_conv_alone = tables.iter().all(|&table| table == TableKind::Conv);
        let packages = if is_conv_alone { ["--package", "cbn-kernels"].as_slice() } else { &["--workspace"] };
        finish(
            Command::new("cargo")
                .current_dir(workspace_root())
                .args(["build", "--release", "--examples"])
                .args(packages),
        )
    }
}

/// The interpreter of the environment with the packages of `tools/bench/requirements.txt`, made or brought up to date first.
fn virtual_environment(options: &Options) -> Result<PathBuf, String> {
    let folder = options.venv.clone().or_else(|| env::var_os("CBN_BENCH_VENV").map(PathBuf::from));
    let folder = folder.or_else(|| Some(cache_folder()?.join("cbn/bench-venv")));
    let folder = folder.ok_or("no home folder: say with --venv where the Python environment goes")?;
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.is_file() {
        finish(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let requirements = workspace_root().join("tools/bench/requirements.txt");
    let installed = folder.join("cbn-bench-requirements.txt");
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    if read(&requirements) != read(&installed) {
        finish(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&requirements))?;
        fs::copy(&requirements, &installed)
            .map_err(|error| format!("cannot write {}: {error}", installed.display()))?;
    }
    Ok(python)
}

/// Where cargo puts what it builds: the environment and configuration files can say so.
fn target_folder() -> Result<PathBuf, String> {
    let mut metadata = Command::new("cargo");
    metadata.current_dir(workspace_root()).args(["metadata", "--no-deps", "--format-version", "1"]);
    let output = metadata.output().map_err(|error| format!("{metadata:?}: {error}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata: {error}; {}", String::from_utf8_lossy(&output.stderr)))?;
    let folder = metadata["target_directory"].as_str().ok_or("cargo metadata names no target_directory")?;
    Ok(PathBuf::from(folder))
}

fn cache_folder() -> Option<PathBuf> {
    let named = ["XDG_CACHE_HOME", "LOCALAPPDATA"].iter().find_map(env::var_os).map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
}

/// Runs a program to its end; what it says goes to the terminal's error side, because tables go to the other.
pub fn finish(command: &mut Command) -> Result<(), String> {
    eprintln!("xtask: {command:?}");
    let status = command.stdout(std::io::stderr()).status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}
