//! The same steps on another number of processes: losses, gradients.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::table::Row;
use super::{Bench, remove};
use crate::process::workspace_root;

/// Images of one size, so that they are padded alike whoever shares them; no decay, so that the velocity after the first step is the gradient. Every
/// anchor becomes a region to learn from: at the start scores are almost equal, and a selection by them would hang on the last bit.
const SAME: [&str; 9] = [
    "data.transform={ min_side_px = [64], max_side_px = 64 }",
    "model.rpn.nms_threshold=1.0",
    "model.rpn.train_proposals={ pre_nms_top_n = 5000, post_nms_top_n = 5000 }",
    "model.box_head.batch_size_per_image=5000",
    "model.box_head.positive_fraction=1.0",
    "train.weight_decay=0.0",
    "train.clip_norm=1e9",
    "train.warmup={ length = { iterations = 1 }, ratio = 1.0 }",
    "train.evaluate_every={ iterations = 100 }",
];

/// The bar of issue and documentation for losses after twenty steps.
const LOSSES_BAR: f64 = 1e-4;
/// The bar for losses and gradients of one step, relative.
const STEP_BAR: f64 = 1e-5;

pub fn check(bench: &Bench) -> Result<Vec<Row>, String> {
    let mut rows = twenty_steps(bench)?;
    for norm in ["none", "frozen", "sync_bn", "group cbn"] {
        rows.extend(one_step(bench, norm)?);
    }
    Ok(rows)
}

/// In neck and heads, as the released recipes have it. The backbone is frozen: its last maps have four pixels an image, whose variance is rounding
/// for the most part.
fn norms(norm: &str) -> Vec<String> {
    let kind = match norm {
        "group cbn" => "{ kind = \"cbn\", window = 4, burn_in = { iterations = 0 }, scope = \"group\" }".to_owned(),
        norm => format!("\"{norm}\""),
    };
    let parts = ["neck", "box_head", "mask_head"].map(|part| format!("norm.{part}={kind}"));
    parts.into_iter().chain(["norm.backbone=\"frozen\"".to_owned()]).collect()
}

fn train(bench: &Bench, ranks: usize, norm: &str, settings: &[&str]) -> Result<PathBuf, String> {
    let work_dir = bench.dir.join(format!("{}_{}_on_{ranks}", norm.replace(' ', "_"), settings.len()));
    let recipe = workspace_root().join("recipes/shapes_mask_rcnn_r18_cbn.toml");
    let mut arguments: Vec<OsString> =
        vec!["train".into(), recipe.into(), "--data".into(), (&bench.training.data).into()];
    arguments.extend(["--work-dir".into(), (&work_dir).into()]);
    let norms = norms(norm);
    for setting in SAME.iter().chain(settings).copied().chain(norms.iter().map(String::as_str)) {
        arguments.extend(["--set".into(), setting.into()]);
    }
    bench.mpirun.run(ranks, (&bench.cbn, &arguments), &work_dir)?;
    Ok(work_dir)
}

/// At a rate at which sums in another order lead apart slowly: at ten times that, trainings with frozen norms, which exchange nothing, differ by 5e-4 too,
/// once a pixel of a mask's target or a region's class has flipped.
fn twenty_steps(bench: &Bench) -> Result<Vec<Row>, String> {
    let settings = ["train.length={ iterations = 20 }", "train.learning_rate=0.0001", "train.batch_size=4"];
    let run = |ranks| -> Result<_, String> {
        let work_dir = train(bench, ranks, "sync_bn", &settings)?;
        let losses = losses(&work_dir)?;
        remove(&work_dir)?;
        Ok(losses)
    };
    let one = run(1)?;
    let mut rows = Vec::new();
    for ranks in [2, 4] {
        let found = worst(&run(ranks)?, &one, |a, b| (a - b).abs())?;
        let what = format!("losses of 20 steps of SyncBN, {ranks} processes against 1");
        rows.push(Row::difference(what, (found.0, &found.1), LOSSES_BAR));
    }
    Ok(rows)
}

/// Two processes with an image each against one with both.
fn one_step(bench: &Bench, norm: &str) -> Result<Vec<Row>, String> {
    let settings = ["train.length={ iterations = 1 }", "train.batch_size=2"];
    let [one, two] = [train(bench, 1, norm, &settings)?, train(bench, 2, norm, &settings)?];
    let (of_losses, _) = worst(&losses(&two)?, &losses(&one)?, |a, b| (a - b).abs() / b.abs())?;
    let dirs = [one, two];
    let [one, two] = [gradients(&dirs[0])?, gradients(&dirs[1])?];
    dirs.iter().try_for_each(|dir| remove(dir))?;
    if !one.keys().eq(two.keys()) || one.len() < 20 {
        return Err(format!("{norm}: gradients of {} and {} parameters", one.len(), two.len()));
    }
    let of_all = relative(two.values().flatten(), one.values().flatten());
    let of_each = one.iter().map(|(name, values)| (relative(two[name].iter(), values.iter()), name));
    let (of_worst, name) = of_each.max_by(|a, b| a.0.total_cmp(&b.0)).ok_or("no gradient")?;
    let what = |what: &str| format!("{norm}: {what}, 2 x 1 image against 1 x 2");
    Ok(vec![
        Row::difference(what("losses"), (of_losses, ""), STEP_BAR),
        Row::difference(what("all gradients"), (of_all, ""), STEP_BAR),
        Row::difference(what("gradient of the worst parameter"), (of_worst, name), STEP_BAR),
    ])
}

/// By iteration and name.
fn losses(work_dir: &Path) -> Result<BTreeMap<String, f64>, String> {
    let path = work_dir.join("log.jsonl");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut losses = BTreeMap::new();
    for line in text.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).map_err(|error| format!("{}: {error}", path.display()))?;
        for (name, value) in line["losses"].as_object().into_iter().flatten() {
            losses.insert(format!("{name} of step {}", line["iteration"]), value.as_f64().unwrap_or(f64::NAN));
        }
    }
    Ok(losses)
}

/// The largest difference, and of what.
fn worst(
    found: &BTreeMap<String, f64>,
    expected: &BTreeMap<String, f64>,
    difference: fn(f64, f64) -> f64,
) -> Result<(f64, String), String> {
    if !found.keys().eq(expected.keys()) {
        return Err("the runs did not log the same steps".to_owned());
    }
    let differences = found.iter().map(|(name, &value)| (difference(value, expected[name]), name));
    let (worst, name) = differences.max_by(|a, b| a.0.total_cmp(&b.0)).ok_or("the runs logged no losses")?;
    Ok((worst, name.clone()))
}

/// The velocities of the first checkpoint.
fn gradients(work_dir: &Path) -> Result<BTreeMap<String, Vec<f32>>, String> {
    let path = work_dir.join("checkpoint_00000001.safetensors");
    let failed = |reason: String| format!("{}: {reason}", path.display());
    let bytes = fs::read(&path).map_err(|error| failed(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| failed(error.to_string()))?;
    let values = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let velocities = file.iter().filter_map(|(name, view)| {
        let name = name.strip_prefix("optimizer.velocity.")?;
        Some((name.to_owned(), values(view.data())))
    });
    Ok(velocities.collect())
}

/// `|a - b| / |b|`, L2.
fn relative<'a>(a: impl Iterator<Item = &'a f32>, b: impl Iterator<Item = &'a f32>) -> f64 {
    let (mut difference, mut length) = (0.0, 0.0);
    for (&a, &b) in a.zip(b) {
        difference += f64::from(a - b).powi(2);
        length += f64::from(b).powi(2);
    }
    (difference / f64::max(length, f64::MIN_POSITIVE)).sqrt()
}
