//! Mask R-CNN R-18-FPN on cell nuclei, from random weights: norms against batch sizes 1 and 2.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Options;
use super::table::{self, Cells, number, read_lines};
use crate::process::workspace_root;

pub const NORMS: [&str; 4] = ["bn", "gn", "cbn-through-weight", "cbn-published"];
pub const BATCHES: [usize; 2] = [1, 2];
pub const SEEDS: [usize; 2] = [0, 1];
/// Images seen by each run, whichever its batch.
const IMAGES: usize = 800;
const EVALUATE_EVERY_IMAGES: usize = 200;
/// The rate climbs so long, and CBN's window is closed so long.
const WARMUP_IMAGES: usize = 100;
const DROP_AFTER_IMAGES: usize = 640;
/// As in the recipes, 0.02 for 4 images.
const RATE_PER_IMAGE: f64 = 0.005;
/// Every n-th validation image counts.
const VALIDATION_STEP: usize = 4;
/// The recipes' detector, with norms in the box head too, and smaller in what costs most.
const SHORTENED: [&str; 9] = [
    "data.transform.min_side_px=[192]",
    "data.transform.max_side_px=320",
    "data.num_workers=1",
    "model.neck.channels=64",
    "model.box_head.head=four_conv_one_fc",
    "model.box_head.batch_size_per_image=64",
    "model.box_head.max_detections=300",
    "model.rpn.train_proposals={pre_nms_top_n=500,post_nms_top_n=300}",
    "model.rpn.test_proposals={pre_nms_top_n=1000,post_nms_top_n=400}",
];

/// One training.
#[derive(Clone, Copy)]
pub struct Run {
    pub norm: &'static str,
    pub batch: usize,
    pub seed: usize,
}

/// The first seed of everything first.
pub fn runs() -> impl Iterator<Item = Run> {
    let pairs = SEEDS.into_iter().flat_map(|seed| BATCHES.map(|batch| (seed, batch)));
    pairs.flat_map(|(seed, batch)| NORMS.map(|norm| Run { norm, batch, seed }))
}

impl Run {
    pub fn file(self, results: &Path) -> PathBuf {
        results.join(format!("b{}_{}_s{}.jsonl", self.batch, self.norm, self.seed))
    }

    fn learning_rate(self) -> f64 {
        RATE_PER_IMAGE * self.batch as f64
    }

    fn recipe(self) -> String {
        let name = if self.norm.starts_with("cbn") { "cbn" } else { self.norm };
        format!("recipes/nuclei_mask_rcnn_r18_{name}.toml")
    }

    /// What differs from the recipe.
    fn assignments(self) -> Vec<String> {
        let iterations = |images: usize| format!("{{iterations={}}}", images / self.batch);
        let mut all = SHORTENED.map(str::to_owned).to_vec();
        all.extend([
            format!("train.seed={}", self.seed),
            format!("train.batch_size={}", self.batch),
            format!("train.learning_rate={}", self.learning_rate()),
            format!("train.length={}", iterations(IMAGES)),
            format!("train.warmup={{length={},ratio=0.1}}", iterations(WARMUP_IMAGES)),
            format!("train.drops={{iterations=[{}]}}", DROP_AFTER_IMAGES / self.batch),
            format!("train.evaluate_every={}", iterations(EVALUATE_EVERY_IMAGES)),
            format!("train.checkpoint_every={}", iterations(EVALUATE_EVERY_IMAGES)),
        ]);
        let choice = match self.norm {
            "cbn-through-weight" => "history_gradient=\"through_weight\"",
            "cbn-published" => "preset=\"published\"",
            _ => return all,
        };
        let norm = format!("{{kind=\"cbn\",window=4,burn_in={},{choice}}}", iterations(WARMUP_IMAGES));
        all.extend(["backbone", "neck", "box_head", "mask_head"].map(|part| format!("norm.{part}={norm}")));
        all
    }
}

pub fn results_folder() -> PathBuf {
    workspace_root().join("docs/results/nuclei")
}

pub(super) fn run(options: &Options) -> Result<(), String> {
    let results = results_folder();
    let work = workspace_root().join("work_dirs/evidence_nuclei");
    for folder in [&results, &work] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let validation = work.join("val.json");
    thin_out(&options.data.join("val.json"), &validation)?;
    for run in runs() {
        let file = run.file(&results);
        if file.exists() {
            continue;
        }
        if options.budget.is_over() {
            break;
        }
        println!("xtask: {}", file.display());
        let folder = work.join(format!("b{}_{}_s{}", run.batch, run.norm, run.seed));
        train(options, run, &folder, &validation)?;
        keep(run, &folder, &file)?;
    }
    print_tables(&results)
}

/// Writes annotations of every n-th image.
fn thin_out(from: &Path, to: &Path) -> Result<(), String> {
    let fault = |message: String| format!("{}: {message}", from.display());
    let text = fs::read_to_string(from).map_err(|error| fault(error.to_string()))?;
    let mut coco: Value = serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
    let images = coco["images"].as_array().ok_or_else(|| fault("it has no images".to_owned()))?;
    let kept: Vec<Value> = images.iter().step_by(VALIDATION_STEP).cloned().collect();
    let ids: Vec<Value> = kept.iter().map(|image| image["id"].clone()).collect();
    coco["images"] = kept.into();
    let annotations = coco["annotations"].as_array_mut().ok_or_else(|| fault("it has no annotations".to_owned()))?;
    annotations.retain(|annotation| ids.contains(&annotation["image_id"]));
    fs::write(to, coco.to_string()).map_err(|error| format!("{}: {error}", to.display()))
}

/// Begins a run, or goes on where it was stopped.
fn train(options: &Options, run: Run, folder: &Path, validation: &Path) -> Result<(), String> {
    let is_begun = fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.path().extension().is_some_and(|ending| ending == "safetensors"))
    });
    if folder.exists() && !is_begun {
        fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let images = options.data.join("images");
    let mut arguments: Vec<OsString> = vec!["train".into(), run.recipe().into()];
    for (flag, path) in [
        ("--data", options.data.as_path()),
        ("--val-annotations", validation),
        ("--val-images", &images),
        ("--work-dir", folder),
    ] {
        arguments.extend([flag.into(), path.into()]);
    }
    if is_begun {
        arguments.push("--resume".into());
    }
    for assignment in run.assignments() {
        arguments.extend(["--set".into(), assignment.into()]);
    }
    options.program.run(&arguments)
}

/// Keeps the log's evaluations, then deletes the checkpoints.
fn keep(run: Run, folder: &Path, file: &Path) -> Result<(), String> {
    let lines = summarise(run, &read_lines(&folder.join("log.jsonl"))?);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// A line for each evaluation: AP as fractions, the mean loss since the one before, seconds of training and of evaluation so far.
fn summarise(run: Run, log: &[Value]) -> Vec<Value> {
    let settings = json!({
        "norm": run.norm, "batch_size": run.batch, "seed": run.seed, "lr": run.learning_rate(), "recipe": run.recipe(),
        "set": run.assignments(), "validation_step": VALIDATION_STEP,
    });
    let (mut train_s, mut evaluation_s, mut losses) = (0.0, 0.0, Vec::new());
    let mut lines = Vec::new();
    for event in log {
        let elapsed_s = event["elapsed_s"].as_f64().unwrap_or_default();
        if event["event"] == "iteration" {
            train_s += elapsed_s;
            losses.extend(event["loss"].as_f64());
        }
        if event["event"] == "evaluation" {
            evaluation_s += elapsed_s;
            let [bbox, segm] = ["bbox", "segm"].map(|kind| &event["metrics"][kind]);
            lines.push(json!({
                "iteration": event["iteration"], "images": event["iteration"].as_u64().map(|iteration| iteration * run.batch as u64),
                "bbox_ap": bbox["AP"], "bbox_ap50": bbox["AP50"], "segm_ap": segm["AP"], "segm_ap50": segm["AP50"],
                "loss": losses.iter().sum::<f64>() / losses.len() as f64,
                "train_s": train_s, "evaluation_s": evaluation_s, "settings": settings,
            }));
            losses.clear();
        }
    }
    lines
}

/// AP in points after the last iteration: mean over the seeds, and their range.
fn print_tables(results: &Path) -> Result<(), String> {
    for (key, title) in
        [("bbox_ap", "Box AP"), ("bbox_ap50", "Box AP50"), ("segm_ap", "Mask AP"), ("segm_ap50", "Mask AP50")]
    {
        let mut cells = Cells::new();
        for run in runs() {
            let file = run.file(results);
            if let Some(line) = read_lines(&file)?.last() {
                let row = if run.batch == 1 { "1" } else { "2" };
                cells.entry((row, run.norm)).or_default().push(100.0 * number(line, key, &file)?);
            }
        }
        println!("\n{title} after {IMAGES} images:");
        table::print("batch", &["1", "2"], &NORMS, &cells);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_batches_see_the_same_images() {
        for images in [IMAGES, EVALUATE_EVERY_IMAGES, WARMUP_IMAGES, DROP_AFTER_IMAGES] {
            assert!(BATCHES.iter().all(|batch| images.is_multiple_of(*batch)));
        }
        assert!(IMAGES.is_multiple_of(EVALUATE_EVERY_IMAGES));
    }

    #[test]
    fn evaluations_carry_the_loss_since_the_last_one_and_all_seconds() {
        let iteration = |loss: f64| json!({"event": "iteration", "loss": loss, "elapsed_s": 0.5});
        let evaluation = |iteration: u64, ap: f64| {
            json!({"event": "evaluation", "iteration": iteration, "elapsed_s": 2.0,
                "metrics": {"bbox": {"AP": ap, "AP50": 2.0 * ap}, "segm": {"AP": ap, "AP50": ap}}})
        };
        let log = [iteration(4.0), iteration(2.0), evaluation(2, 0.1), iteration(1.0), evaluation(3, 0.25)];
        let lines = summarise(Run { norm: "bn", batch: 2, seed: 1 }, &log);
        let facts = |line: &Value| {
            ["images", "bbox_ap50", "loss", "train_s", "evaluation_s"].map(|key| line[key].as_f64().unwrap_or(f64::NAN))
        };
        assert_eq!(lines.iter().map(facts).collect::<Vec<_>>(), [[4.0, 0.2, 3.0, 1.0, 2.0], [6.0, 0.5, 1.0, 1.5, 4.0]]);
    }
}
