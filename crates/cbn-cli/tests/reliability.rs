//! Trainings that are told to stop, whose disk fills up, whose images are broken, that diverge.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CBN: &str = env!("CARGO_BIN_EXE_cbn");

/// Longer than any step of these trainings takes on a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

fn data(dir: &Path) -> String {
    data_of(4, dir)
}

fn data_of(num_train: usize, dir: &Path) -> String {
    let data = dir.join("data").to_str().unwrap().to_owned();
    let num_train = num_train.to_string();
    let made = Command::new(CBN)
        .args(["data", "synth", &data, "--train", &num_train, "--val", "2", "--size", "64", "--objects", "2"])
        .stdout(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    data
}

/// A training with a checkpoint after each iteration.
fn training(data: &str, work_dir: &Path, num_iterations: usize) -> Command {
    training_saved_every("1it", data, work_dir, num_iterations)
}

fn training_saved_every(every: &str, data: &str, work_dir: &Path, num_iterations: usize) -> Command {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/shapes_mask_rcnn_r18_cbn.toml");
    let mut command = Command::new(CBN);
    command.arg("train").arg(recipe).args(["--data", data, "--work-dir"]).arg(work_dir);
    command.args(["--set", &format!("train.length={{ iterations = {num_iterations} }}")]);
    command.args(["--set", "train.batch_size=2", "--set", "data.transform.min_side_px=[64]"]);
    command.args(["--checkpoint-every", every]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn count(work_dir: &Path, event: &str) -> usize {
    let log = fs::read_to_string(work_dir.join("log.jsonl")).unwrap_or_default();
    log.lines().filter(|line| line.starts_with(&format!("{{\"event\":\"{event}\""))).count()
}

/// Waits until the training has logged such an event, then sends it a signal.
fn signal_after(event: &str, child: &mut Child, work_dir: &Path, name: &str) {
    let began = Instant::now();
    while count(work_dir, event) == 0 {
        assert!(child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE, "the training has not begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(child, name);
}

/// A process that has ended meanwhile does not mind.
fn signal(child: &Child, name: &str) {
    let _ = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status();
}

#[test]
fn a_signal_ends_the_training_saved_and_with_the_command_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let work_dir = dir.path().join(name);
        // So long that it cannot end by itself.
        let mut child = training(&data, &work_dir, 100_000).spawn().unwrap();
        signal_after("iteration", &mut child, &work_dir, name);
        let output = child.wait_with_output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
        assert_eq!(count(&work_dir, "stopped"), 1);
        // The step that ran is in the checkpoint.
        let last = format!("checkpoint_{:08}.safetensors", count(&work_dir, "iteration"));
        assert!(stdout.contains(&last) && work_dir.join(&last).is_file(), "{last}: {stdout}");
        let resume = stdout.lines().find(|line| line.starts_with("resume ")).unwrap();
        assert!(resume.contains(" train ") && resume.ends_with(" --resume"), "{resume}");
    }
}

#[test]
fn a_second_signal_ends_the_training_at_once_and_the_last_checkpoint_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    // A step of so many batches takes seconds: the second signal finds it running.
    let data = data_of(60, dir.path());
    let long_steps = |work_dir: &Path, num_iterations| {
        let mut command = training(&data, work_dir, num_iterations);
        command.args(["--set", "train.accumulate=30", "--set", "train.evaluate_images=1"]);
        command
    };
    for (first, second, code) in [("INT", "INT", 130), ("INT", "TERM", 143)] {
        // A training that the first signal finds between two steps ends in order before the second one comes: that proves nothing.
        let work_dir = (1..=8)
            .map(|attempt| dir.path().join(format!("{first}_{second}_{attempt}")))
            .find(|work_dir| {
                let mut child = long_steps(work_dir, 100).spawn().unwrap();
                signal_after("checkpoint", &mut child, work_dir, first);
                // Two signals that arrive together may become one.
                std::thread::sleep(Duration::from_millis(100));
                signal(&child, second);
                let output = child.wait_with_output().unwrap();
                let is_cut_off = count(work_dir, "stopped") == 0;
                if is_cut_off {
                    // It did not say how to go on.
                    assert_eq!(output.status.code(), Some(code));
                    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
                }
                is_cut_off
            })
            .expect("one of eight second signals finds the training running");
        if second == "INT" {
            let num_done = count(&work_dir, "iteration") + 1;
            let until = num_done.to_string();
            let resumed = long_steps(&work_dir, 100).args(["--resume", "--max-iterations", &until]).output().unwrap();
            assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
            assert_eq!(count(&work_dir, "skipped_checkpoint"), 0, "what there was is whole");
            assert!(work_dir.join(format!("checkpoint_{num_done:08}.safetensors")).is_file());
        }
    }
}

/// Cuts off the second half of an image.
fn break_image(data: &str, name: &str) {
    let path = Path::new(data).join("images").join(name);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn three_broken_images_of_forty_end_a_training_that_does_not_bear_them() {
    let dir = tempfile::tempdir().unwrap();
    let data = data_of(40, dir.path());
    let broken = ["train_00004.png", "train_00019.png", "train_00033.png"];
    broken.iter().for_each(|name| break_image(&data, name));
    // One epoch: each of them comes up once.
    for (limit, code) in [("0", 1), ("2", 1), ("3", 0)] {
        let work_dir = dir.path().join(limit);
        let mut command = training_saved_every("1ep", &data, &work_dir, 20);
        command.args(["--max-bad-images", limit, "--set", "train.evaluate_images=1"]);
        let output = command.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{message}");
        let told = |name: &&str| message.contains(*name);
        match limit {
            "0" => assert!(message.contains("cbn: image ") && broken.iter().any(told), "{message}"),
            "2" => assert!(message.contains("one bad image more than the 2 that may be skipped"), "{message}"),
            _ => {
                assert!(broken.iter().all(told), "{message}");
                assert!(message.contains("bad image 3 of at most 3: "), "{message}");
            }
        }
        // The steps before the one that could not be made are saved.
        let last = format!("checkpoint_{:08}.safetensors", count(&work_dir, "iteration"));
        assert!(work_dir.join(&last).is_file(), "{last}");
    }
}

#[test]
fn a_broken_validation_image_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    break_image(&data, "val_00002.png");
    let work_dir = dir.path().join("run");
    let output = training(&data, &work_dir, 1).args(["--max-bad-images", "9"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let expected =
        "evaluation after iteration 1: a validation image cannot be used. --max-bad-images bears training images only";
    assert!(message.contains(expected) && message.contains("val_00002.png"), "{message}");
    assert!(work_dir.join("checkpoint_00000001.safetensors").is_file());
}

#[test]
fn a_training_that_diverges_says_where_and_keeps_what_was_good() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let work_dir = dir.path().join("run");
    let mut command = training(&data, &work_dir, 100);
    let no_step_at_first = "train.warmup={ length = { iterations = 1 }, ratio = 0.0 }";
    command.args(["--set", "train.learning_rate=1e30", "--set", no_step_at_first]);
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let num_done = count(&work_dir, "iteration");
    let last = format!("checkpoint_{num_done:08}.safetensors");
    assert!(num_done > 0 && message.contains(&format!("cbn: iteration {}: ", num_done + 1)), "{message}");
    for part in ["(losses ", "rpn_objectness ", ", on train_0000", "training has diverged", &last] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let good = fs::read(work_dir.join(&last)).unwrap();
    assert!(good.len() > 1_000_000);
}

/// Runs `inside` where `mount` is a tmpfs of 20 MB; none where the system does not let tests mount.
fn on_a_small_disk(mount: &Path, inside: &Command) -> Option<std::process::Output> {
    fs::create_dir_all(mount).unwrap();
    let script = "mount -t tmpfs -o size=20m tmpfs \"$1\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", script, "sh"]).arg(mount);
    command.arg(inside.get_program()).args(inside.get_args());
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "--map-root-user", "sh", "-c", "mount -t tmpfs -o size=20m tmpfs \"$1\"", "sh"]).arg(mount);
    if !probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this system lets nobody mount a tmpfs of one's own");
        return None;
    }
    Some(command.output().unwrap())
}

#[test]
fn a_disk_that_fills_up_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let mount = dir.path().join("disk");
    let work_dir = mount.join("run");
    // A checkpoint of this detector has more than 100 MB.
    let Some(output) = on_a_small_disk(&mount, &training(&data, &work_dir, 3)) else { return };
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let expected = "checkpoints before it are untouched: make room, then go on with --resume: No space left on device";
    assert!(message.contains("cannot write checkpoint ") && message.contains(expected), "{message}");
}
