//! Training runs on a few synthetic images: resuming, diverging, logging.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

#[path = "common/tiny_run.rs"]
mod tiny_run;

use cbn_detection::eval::{EvalConfig, GroundTruth, IouType, evaluate, read_results};
use cbn_detection::train::{RunInfo, WorkDir};

use tiny_run::{Data, log_lines, losses, train};

#[test]
fn a_resumed_run_equals_the_uninterrupted_one_bit_for_bit() {
    let data = Data::new();
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (plan, trainer) = data.trainer(&[], WorkDir::create(whole.path()).unwrap());
    assert_eq!((plan.train.num_iterations, plan.train.iterations_per_epoch), (6, 3));
    let expected = train(&plan, &trainer).unwrap();

    // What a run that was stopped after epoch 1 leaves behind.
    let name = "checkpoint_00000003.safetensors";
    std::fs::copy(whole.path().join(name), parts.path().join(name)).unwrap();
    let (plan, trainer) = data.trainer(&[], WorkDir::resume(parts.path()).unwrap());
    let resumed = train(&plan, &trainer).unwrap();

    let differing: Vec<&String> = expected.keys().filter(|name| expected[*name] != resumed[*name]).collect();
    assert!(differing.is_empty(), "{} tensors differ, first {:?}", differing.len(), &differing[..1]);
    assert_eq!(losses(parts.path()), losses(whole.path())[3..]);
    let last = "checkpoint_00000006.safetensors";
    assert!(std::fs::read(whole.path().join(last)).unwrap() == std::fs::read(parts.path().join(last)).unwrap());
}

#[test]
fn a_run_that_diverges_names_iteration_and_loss() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    // The first step throws the weights so far away that products of them overflow.
    let assignments = ["train.learning_rate=1e30", "train.clip_norm=1e30"];
    let (plan, trainer) = data.trainer(&assignments, WorkDir::create(dir.path()).unwrap());
    let message = train(&plan, &trainer).unwrap_err().to_string();
    assert!(message.starts_with("iteration 2: ") && message.contains("training has diverged"), "{message}");
    // All losses, the images of the step, and where to go on from.
    assert!(
        message.contains("roi_mask ") && message.contains(".png") && message.contains("no checkpoint"),
        "{message}"
    );
}

#[test]
fn the_log_has_every_iteration_and_the_evaluation() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    let (plan, trainer) = data.trainer(&["train.length={ iterations = 2 }"], WorkDir::create(dir.path()).unwrap());
    train(&plan, &trainer).unwrap();
    let lines = log_lines(dir.path());
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["start", "iteration", "iteration", "checkpoint", "evaluation"]);
    let first = &lines[1];
    assert_eq!((first["iteration"].as_u64(), first["epoch"].as_u64()), (Some(1), Some(0)));
    assert!((first["learning_rate"].as_f64().unwrap() - 0.001).abs() < 1e-15);
    assert!(first["losses"]["rpn_objectness"].as_f64().unwrap() > 0.0);
    let parts = ["data_s", "forward_s", "backward_s", "optimizer_s"].map(|part| first[part].as_f64().unwrap());
    assert!(parts.iter().all(|&part| part > 0.0), "{parts:?}");
    // What is left is a vector of image ids and the like.
    let (whole, sum) = (first["elapsed_s"].as_f64().unwrap(), parts.iter().sum::<f64>());
    assert!(sum <= whole && sum > 0.9 * whole, "{parts:?} of {whole}");
    assert!(lines[4]["metrics"]["segm"].get("AP50").is_some());
}

#[test]
fn the_work_directory_tells_what_was_run_and_what_it_found() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    let set = ["train.length={ iterations = 2 }"];
    let (plan, trainer) = data.trainer(&set, WorkDir::create(dir.path()).unwrap());
    train(&plan, &trainer).unwrap();
    let text = std::fs::read_to_string(trainer.work_dir.run_info_path()).unwrap();
    let info: RunInfo = serde_json::from_str(&text).unwrap();
    assert_eq!(info.plan, serde_json::to_value(&plan).unwrap());
    assert_eq!((info.num_train_images, info.num_val_images, info.categories.len()), (6, 2, 3));
    assert!(info.val_annotations.is_absolute() && info.val_annotations.is_file() && info.val_images.is_dir());
    assert!(info.machine.num_threads > 0);
    // The detections are those that the log's last numbers were computed from.
    let found = read_results(&trainer.work_dir.detections_path()).unwrap();
    let truth = GroundTruth::load(&info.val_annotations).unwrap();
    let summary = evaluate(&truth, &found, IouType::Bbox, &EvalConfig::default()).unwrap();
    let logged = log_lines(dir.path()).pop().unwrap();
    assert_eq!(logged["metrics"]["bbox"]["AR100"].as_f64(), summary.ar[2]);
}

#[test]
fn a_run_is_resumed_only_under_the_plan_it_was_begun_with() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    let short = "train.length={ iterations = 1 }";
    let (plan, trainer) = data.trainer(&[short], WorkDir::create(dir.path()).unwrap());
    train(&plan, &trainer).unwrap();
    drop(trainer);
    let (plan, trainer) = data.trainer(&[short, "train.momentum=0.5"], WorkDir::resume(dir.path()).unwrap());
    let message = train(&plan, &trainer).unwrap_err().to_string();
    assert!(
        message.ends_with("was written under another plan: train.optimizer.momentum is 0.9 there and 0.5 now"),
        "{message}"
    );
}
