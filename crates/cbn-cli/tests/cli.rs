//! The command as a user meets it: what it writes, what it says, how it exits.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

mod common;

use std::path::{Path, PathBuf};

use common::{SHAPES, TINY, cbn, fails, recipe, shapes, succeeds, text};

#[test]
fn a_data_set_is_made_trained_on_tested_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let data = shapes(dir.path());
    let (recipe, run) = (recipe(SHAPES), text(&dir.path().join("run")));
    let train = ["train", &recipe, "--data", &data, "--work-dir", &run];
    let stdout = succeeds(&[&train[..], &TINY].concat());
    let checkpoint = text(&dir.path().join("run/checkpoint_00000002.safetensors"));
    assert!(stdout.starts_with("iteration    bbox AP") && stdout.contains(&checkpoint), "{stdout}");
    assert!(Path::new(&checkpoint).is_file() && dir.path().join("run/log.jsonl").is_file());
    // A second run must not mix its files with the first one's.
    let message = fails(&[&train[..], &TINY].concat());
    assert!(message.contains("holds checkpoints already: continue them with --resume"), "{message}");

    let results = text(&dir.path().join("results.json"));
    let test = ["test", &recipe, &checkpoint, "--data", &data, "--eval", "bbox", "segm", "--json", "--out", &results];
    let scores: serde_json::Value = serde_json::from_str(&succeeds(&[&test[..], &TINY[6..]].concat())).unwrap();
    assert!(scores["segm"].get("AP50").is_some(), "{scores}");
    let val = text(&Path::new(&data).join("val.json"));
    let again: serde_json::Value =
        serde_json::from_str(&succeeds(&["eval", &val, &results, "--eval", "bbox", "segm", "--json"])).unwrap();
    assert_eq!(scores, again);

    let picture = Path::new(&data).join("images/val_00001.png");
    let out = dir.path().join("out");
    succeeds(&["detect", &checkpoint, &text(&picture), "--out-dir", &text(&out), "--score", "0.0"]);
    let found = std::fs::read_to_string(out.join("detections.json")).unwrap();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found[0]["width"], 64);
    assert!(out.join("val_00001.png").is_file());
}

#[test]
fn evaluations_of_a_training_take_the_first_images_only() {
    let dir = tempfile::tempdir().unwrap();
    let data = shapes(dir.path());
    let (recipe, run, whole) = (recipe(SHAPES), text(&dir.path().join("run")), text(&dir.path().join("whole")));
    let train = |run: &str, set: &[&str]| {
        succeeds(&[&["train", &recipe, "--data", &data, "--work-dir", run][..], &TINY, set].concat())
    };
    train(&whole, &[]);
    train(&run, &["--set", "train.evaluate_images=1"]);
    let file = |run: &str, name: &str| std::fs::read_to_string(Path::new(run).join(name)).unwrap();
    let ids = |run: &str| -> std::collections::BTreeSet<u64> {
        let found: Vec<serde_json::Value> = serde_json::from_str(&file(run, "detections.json")).unwrap();
        found.iter().map(|detection| detection["image_id"].as_u64().unwrap()).collect()
    };
    assert_eq!((ids(&run).len(), ids(&whole).len()), (1, 2));

    // The number in the log is that of `cbn test` on the same images, and not that on all.
    let log = file(&run, "log.jsonl");
    let evaluation: serde_json::Value =
        serde_json::from_str(log.lines().find(|line| line.contains("\"evaluation\"")).unwrap()).unwrap();
    let checkpoint = text(&Path::new(&run).join("checkpoint_00000002.safetensors"));
    let test = |options: &[&str]| -> serde_json::Value {
        let arguments = [&["test", &recipe, &checkpoint, "--data", &data, "--json"][..], &TINY[6..], options].concat();
        serde_json::from_str(&succeeds(&arguments)).unwrap()
    };
    let first = test(&["--max-images", "1"]);
    for name in ["AP", "AP50", "AR100"] {
        assert_eq!(evaluation["metrics"]["bbox"][name], first["bbox"][name], "{name}");
    }
    assert_ne!(first["bbox"], test(&[])["bbox"]);
    let found = |options: &[&str]| {
        let out = text(&dir.path().join("found.json"));
        test(&[&["--max-images", "1", "--out", &out][..], options].concat());
        std::fs::read_to_string(&out).unwrap()
    };
    assert_eq!(found(&[]), file(&run, "detections.json"));
    // Looking at the mirror image as well finds something else.
    assert_ne!(found(&["--flip"]), found(&[]));

    // A report scores what was evaluated, and compares nothing with what was not.
    succeeds(&["report", &run, "--bootstrap", "2"]);
    assert!(file(&run, "report.html").contains(" detections on 1 validation images."));
    let both = text(&dir.path().join("both.html"));
    succeeds(&["report", &run, &whole, "--output", &both, "--bootstrap", "2"]);
    let page = std::fs::read_to_string(&both).unwrap();
    assert!(page.contains("run was evaluated on 1 images, whole on 2 images, which are not the same images"));
    assert!(page.contains("other images</td>") && !page.contains(" to +"));
}

#[test]
fn backbone_weights_that_are_not_there_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = shapes(dir.path());
    let run = text(&dir.path().join("run"));
    let weights = ["--set", "train.backbone_weights=/no/such/resnet18.pth"];
    let message = fails(&[&["train", &recipe(SHAPES), "--data", &data, "--work-dir", &run][..], &weights].concat());
    assert!(message.contains("train.backbone_weights: /no/such/resnet18.pth: "), "{message}");
}

/// A data set's JSON file with one more category, which nothing shows.
fn add_category(path: &Path) {
    let mut file: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    file["categories"].as_array_mut().unwrap().push(serde_json::json!({ "id": 77, "name": "unseen" }));
    std::fs::write(path, file.to_string()).unwrap();
}

#[test]
fn weights_go_out_to_torchvision_and_come_back_to_be_tested_and_fine_tuned() {
    let dir = tempfile::tempdir().unwrap();
    let data = shapes(dir.path());
    let path = |name: &str| text(&dir.path().join(name));
    let (recipe, run, out) = (recipe(SHAPES), path("run"), path("torchvision.safetensors"));
    succeeds(&[&["train", &recipe, "--data", &data, "--work-dir", &run][..], &TINY].concat());
    let checkpoint = path("run/checkpoint_00000002.safetensors");
    let test = |weights: &str| {
        succeeds(
            &[&["test", &recipe, weights, "--data", &data, "--json", "--out", &path("found.json")], &TINY[6..]]
                .concat(),
        );
        std::fs::read_to_string(path("found.json")).unwrap()
    };
    let expected = test(&checkpoint);
    assert!(expected.matches("category_id").count() > 10, "nothing to compare: {expected}");
    succeeds(&["convert", &checkpoint, &out, "--to", "torchvision"]);
    assert_eq!(test(&out), expected, "as they are");
    let val = text(&Path::new(&data).join("val.json"));
    let back = path("back.safetensors");
    succeeds(&["convert", &out, &back, "--recipe", &recipe, "--annotations", &val]);
    assert_eq!(test(&back), expected, "as a checkpoint");

    // Fine-tuning on data with one class more.
    add_category(Path::new(&val));
    add_category(&Path::new(&data).join("train.json"));
    let init = format!("train.init={out}");
    let tuned = path("tuned");
    let train = [&["train", &recipe, "--data", &data, "--work-dir", &tuned, "--set", &init][..], &TINY].concat();
    let message = fails(&train);
    assert!(
        message.contains("train.init: the weights are for 3 classes, the model has 4: replace_class_heads"),
        "{message}"
    );
    std::fs::remove_dir_all(&tuned).unwrap();
    let output = cbn(&[&train[..], &["--set", "train.replace_class_heads=true"]].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("anew       roi.boxes.head.class_logits.weight, "), "{told}");
    assert!(Path::new(&path("tuned/checkpoint_00000002.safetensors")).is_file());
}

#[test]
fn weights_that_say_nothing_of_themselves_need_a_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("model.pth"), text(&dir.path().join("out.safetensors")));
    std::fs::write(&input, "weights").unwrap();
    let message = fails(&["convert", &text(&input), &output]);
    assert!(message.contains("model.pth does not say what it is of: give --recipe"), "{message}");
    // A wrong path is told first, and not as a lack of options.
    let message = fails(&["convert", "/no/such/model.pth", &output]);
    assert!(message.contains("cannot read /no/such/model.pth"), "{message}");
}

#[test]
fn a_checkpoint_of_another_architecture_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = shapes(dir.path());
    let (recipe, run) = (recipe(SHAPES), text(&dir.path().join("run")));
    succeeds(&[&["train", &recipe, "--data", &data, "--work-dir", &run][..], &TINY].concat());
    let checkpoint = text(&dir.path().join("run/checkpoint_00000002.safetensors"));
    let message = fails(&["test", &recipe, &checkpoint, "--data", &data, "--set", "norm.neck=bn"]);
    assert!(message.contains("is of another architecture: "), "{message}");
    assert!(message.contains("not in the model (neck."), "{message}");
}

#[test]
fn an_unknown_recipe_key_is_named_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my.toml");
    let recipe = std::fs::read_to_string(recipe(SHAPES)).unwrap();
    std::fs::write(&path, recipe.replacen("batch_size = ", "batch = ", 1)).unwrap();
    let line = 1 + recipe.lines().position(|line| line.starts_with("batch_size = ")).unwrap();
    let message = fails(&["recipe", "check", &text(&path)]);
    assert!(message.contains(&format!("my.toml:{line}:1: unknown field `batch`, expected one of")), "{message}");
}

#[test]
fn an_override_of_a_wrong_type_is_refused() {
    let message = fails(&["recipe", "show", &recipe(SHAPES), "--set", "train.learning_rate=fast"]);
    assert!(
        message.contains("--set train.learning_rate=fast: invalid type: string \"fast\", expected f64"),
        "{message}"
    );
}

#[test]
fn a_work_dir_that_cannot_be_written_is_found_before_the_data_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let run = text(&file.join("run"));
    let message = fails(&["train", &recipe(SHAPES), "--data", "/no/such/data", "--work-dir", &run]);
    assert!(message.contains("cannot write to work directory "), "{message}");
}

#[test]
fn outputs_are_opened_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = text(&file.join("x.json"));
    let message = fails(&["test", &recipe(SHAPES), "/no/such/checkpoint", "--data", "/no/such/data", "--out", &below]);
    assert!(message.contains("cannot write "), "{message}");
    let message = fails(&["detect", "/no/such/checkpoint", "a.png", "--out-dir", &text(&file.join("out"))]);
    assert!(message.contains("cannot write to "), "{message}");
}

#[cfg(not(feature = "wgpu"))]
#[test]
fn a_device_that_was_not_built_in_names_its_feature() {
    let message = fails(&["demo", "--device", "wgpu"]);
    assert!(message.contains("build with cargo build --release -p cbn-cli --features wgpu"), "{message}");
}

#[test]
fn annotations_are_converted_and_what_is_lost_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = shapes(dir.path());
    let path = |name: &str| text(&dir.path().join(name));
    let (val, voc, back) = (format!("{data}/val.json"), path("voc"), path("back.json"));
    let told = succeeds(&["data", "convert", &val, &voc, "--from", "coco", "--to", "voc"]);
    assert!(told.contains("voc: 2 images, ") && told.contains("masks: the format has boxes only"), "{told}");
    let message = fails(&["data", "convert", &val, &voc, "--from", "coco", "--to", "voc"]);
    assert!(message.contains("is there and not empty: name a new folder"), "{message}");
    let told = succeeds(&["data", "convert", &voc, &back, "--from", "voc"]);
    assert!(told.starts_with(&format!("{back}: 2 images, ")) && !told.contains("left out"), "{told}");
    let message = fails(&["data", "convert", &path("nowhere"), &back, "--from", "yolo"]);
    assert!(message.contains("nowhere as YOLO: data.yaml not found in YOLO directory"), "{message}");
}

#[test]
fn a_broken_image_fails_the_data_check() {
    let dir = tempfile::tempdir().unwrap();
    let data = shapes(dir.path());
    let report = succeeds(&["data", "check", &data]);
    assert!(report.starts_with("train: 4 images (4 with objects)"), "{report}");
    let image: PathBuf = [&data, "images", "train_00002.png"].iter().collect();
    let bytes = std::fs::read(&image).unwrap();
    std::fs::write(&image, &bytes[..bytes.len() / 2]).unwrap();
    let message = fails(&["data", "check", &data]);
    assert!(message.contains("1 errors: a training would stop at them"), "{message}");
}

#[test]
fn recipe_show_prints_every_number() {
    let shown = succeeds(&["recipe", "show", &recipe("mask_rcnn_r50_cbn.toml")]);
    let plan: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(plan["train"]["num_iterations"], 12 * 7330);
    assert_eq!(plan["model"]["neck"]["norm"]["burn_in_iterations"], 8 * 7330);
}

/// The 24 numbers of the COCO API's example, as pycocotools computes them.
#[test]
fn eval_equals_pycocotools() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/coco_eval/coco_val2014_100");
    let expected = std::fs::read_to_string(fixtures.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let ground_truth = text(&fixtures.join("instances_val2014_100.json"));
    for kind in ["bbox", "segm"] {
        let detections = text(&fixtures.join(format!("instances_val2014_fake{kind}100_results.json")));
        let scores = succeeds(&["eval", &ground_truth, &detections, "--eval", kind, "--json"]);
        let scores: serde_json::Value = serde_json::from_str(&scores).unwrap();
        for (name, theirs) in NAMES {
            let ours = scores[kind][name].as_f64().unwrap();
            let expected = expected[kind]["stats"][theirs].as_f64().unwrap();
            // The same f64 operations in the same order; 1e-12 is what the project promises.
            assert!((ours - expected).abs() <= 1e-12, "{kind} {name}: {ours}, expected {expected}");
        }
    }
}

/// Our names and the fixture's.
const NAMES: [(&str, &str); 12] = [
    ("AP", "AP"),
    ("AP50", "AP50"),
    ("AP75", "AP75"),
    ("APs", "AP_small"),
    ("APm", "AP_medium"),
    ("APl", "AP_large"),
    ("AR1", "AR1"),
    ("AR10", "AR10"),
    ("AR100", "AR100"),
    ("ARs", "AR_small"),
    ("ARm", "AR_medium"),
    ("ARl", "AR_large"),
];
