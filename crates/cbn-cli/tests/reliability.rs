//! A training that is told to stop, and one whose disk fills up.

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
    let data = dir.join("data").to_str().unwrap().to_owned();
    let made = Command::new(CBN)
        .args(["data", "synth", &data, "--train", "4", "--val", "2", "--size", "64", "--objects", "2"])
        .stdout(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    data
}

/// A training with a checkpoint after each iteration.
fn training(data: &str, work_dir: &Path, num_iterations: usize) -> Command {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/shapes_mask_rcnn_r18_cbn.toml");
    let mut command = Command::new(CBN);
    command.arg("train").arg(recipe).args(["--data", data, "--work-dir"]).arg(work_dir);
    command.args(["--set", &format!("train.length={{ iterations = {num_iterations} }}")]);
    command.args(["--set", "train.batch_size=2", "--set", "data.transform.min_side_px=[64]"]);
    command.args(["--checkpoint-every", "1it"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn count(work_dir: &Path, event: &str) -> usize {
    let log = fs::read_to_string(work_dir.join("log.jsonl")).unwrap_or_default();
    log.lines().filter(|line| line.starts_with(&format!("{{\"event\":\"{event}\""))).count()
}

/// Waits until the training has finished an iteration, then sends it a signal.
fn signal_after_a_step(child: &mut Child, work_dir: &Path, name: &str) {
    let began = Instant::now();
    while count(work_dir, "iteration") == 0 {
        assert!(child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE, "the training has not begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn a_signal_ends_the_training_saved_and_with_the_command_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let work_dir = dir.path().join(name);
        // So long that it cannot end by itself.
        let mut child = training(&data, &work_dir, 100_000).spawn().unwrap();
        signal_after_a_step(&mut child, &work_dir, name);
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
