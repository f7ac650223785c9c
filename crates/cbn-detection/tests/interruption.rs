//! Runs that are stopped, killed, or meet what they cannot use.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

#[path = "common/tiny_run.rs"]
mod tiny_run;

use std::fs;
use std::path::Path;

use cbn_detection::train::{
    Checkpoint, Event, LogError, NamedTensors, Observer, Record, StopRequest, TrainError, Trainer, WorkDir, collect,
};

use tiny_run::{Data, log_lines, losses, start, train};

/// Averages and accumulated gradients are state as well: 2 of the 6 iterations of the plain run, each on three batches.
const ALL_STATE: [&str; 3] = ["train.accumulate=3", "train.ema={ decay = 0.9 }", "train.length={ epochs = 4 }"];

/// Makes the request once so many iterations are done.
struct StopAfter {
    iterations: usize,
    stop: StopRequest,
}

impl Observer for StopAfter {
    fn observe(&mut self, event: &Event<'_>) -> Result<(), LogError> {
        if let Event::Logged(Record::Iteration(record)) = event
            && record.iteration == self.iterations
        {
            self.stop.make();
        }
        Ok(())
    }
}

fn assert_same(found: &NamedTensors, expected: &NamedTensors) {
    let differing: Vec<&String> = expected.keys().filter(|name| expected[*name] != found[*name]).collect();
    assert!(differing.is_empty(), "{} tensors differ, first {:?}", differing.len(), differing[0]);
}

fn last_checkpoint(work_dir: &Path, iteration: usize) -> Vec<u8> {
    fs::read(work_dir.join(format!("checkpoint_{iteration:08}.safetensors"))).unwrap()
}

#[test]
fn a_run_that_is_stopped_within_an_epoch_goes_on_bit_for_bit() {
    let data = Data::new();
    for (assignments, stop_after) in [(&[][..], 2), (&[][..], 4), (&ALL_STATE[..], 2)] {
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (plan, trainer) = data.trainer(assignments, WorkDir::create(whole.path()).unwrap());
        let expected = train(&plan, &trainer).unwrap();

        let (plan, trainer) = data.trainer(assignments, WorkDir::create(parts.path()).unwrap());
        let detector = start(&plan);
        let mut observer = StopAfter { iterations: stop_after, stop: trainer.stop.clone() };
        let outcome = trainer.train(detector, &mut observer).unwrap();
        assert_eq!((outcome.iteration, outcome.is_finished), (stop_after, false));
        drop(trainer);

        let (plan, trainer) = data.trainer(assignments, WorkDir::resume(parts.path()).unwrap());
        assert_same(&train(&plan, &trainer).unwrap(), &expected);
        let last = plan.train.num_iterations;
        assert!(last_checkpoint(parts.path(), last) == last_checkpoint(whole.path(), last));
    }
}

#[test]
fn a_seed_repeats_a_run_bit_for_bit_with_any_number_of_workers() {
    let data = Data::new();
    let run = |workers: usize| {
        let dir = tempfile::tempdir().unwrap();
        let set = format!("data.num_workers={workers}");
        let (plan, trainer) = data.trainer(&[&set], WorkDir::create(dir.path()).unwrap());
        train(&plan, &trainer).unwrap()
    };
    let expected = run(0);
    for workers in [1, 4] {
        assert_same(&run(workers), &expected);
    }
}

#[test]
fn a_damaged_checkpoint_is_skipped_with_its_reason() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    let (plan, trainer) = data.trainer(&[], WorkDir::create(dir.path()).unwrap());
    let expected = train(&plan, &trainer).unwrap();
    drop(trainer);
    // One bit of a weight in the newest of the two.
    let newest = dir.path().join("checkpoint_00000006.safetensors");
    let mut bytes = fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&newest, bytes).unwrap();

    let (plan, trainer) = data.trainer(&[], WorkDir::resume(dir.path()).unwrap());
    assert_same(&train(&plan, &trainer).unwrap(), &expected);
    let skipped = log_lines(dir.path()).into_iter().find(|line| line["event"] == "skipped_checkpoint").unwrap();
    let reason = skipped["reason"].as_str().unwrap();
    assert!(reason.contains("checkpoint_00000006.safetensors is not what was written"), "{reason}");
    drop(trainer);

    for entry in fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("checkpoint_") {
            fs::write(entry.path(), "no checkpoint").unwrap();
        }
    }
    let (plan, trainer) = data.trainer(&[], WorkDir::resume(dir.path()).unwrap());
    let error = train(&plan, &trainer).unwrap_err();
    assert!(matches!(&error, TrainError::NoIntactCheckpoint { reasons, .. } if reasons.len() == 3), "{error}");
}

#[test]
fn the_newest_checkpoints_and_the_best_one_stay() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    let set = ["train.checkpoint_every={ iterations = 1 }", "train.evaluate_every={ iterations = 2 }"];
    let (plan, trainer) = data.trainer(&set, WorkDir::create(dir.path()).unwrap());
    train(&plan, &trainer).unwrap();
    let mut names: Vec<String> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("checkpoint_"));
    names.sort();
    assert_eq!(names, ["00000005", "00000006", "best"].map(|name| format!("checkpoint_{name}.safetensors")));

    // The best one is the first that no later one exceeds.
    let evaluations = log_lines(dir.path()).into_iter().filter(|line| line["event"] == "evaluation");
    let scores = evaluations.map(|line| {
        (line["iteration"].as_u64().unwrap(), line["metrics"]["segm"]["AP"].as_f64().unwrap(), line["is_best"].clone())
    });
    let scores: Vec<_> = scores.collect();
    let highest = scores.iter().map(|score| score.1).fold(f64::MIN, f64::max);
    let (expected, ..) = scores.iter().find(|score| score.1 == highest).unwrap();
    let best = Checkpoint::read_info(&trainer.work_dir.best_checkpoint().unwrap()).unwrap();
    assert_eq!((scores.len(), best.iteration as u64), (3, *expected));
    assert_eq!(scores[0].2, true);
}

/// Truncates so many images of the training split; their names.
fn spoil(data: &Data, num_bad: usize) -> Vec<String> {
    let dataset = data.load(cbn_detection::data::Split::Train);
    let paths = dataset.images[..num_bad].iter().map(|image| dataset.image_path(image));
    paths
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            path.file_name().unwrap().to_string_lossy().into_owned()
        })
        .collect()
}

fn bear(trainer: Trainer, limit: usize) -> Trainer {
    Trainer { loader: trainer.loader.clone().with_bad_image_limit(limit), ..trainer }
}

#[test]
fn bad_images_are_borne_up_to_the_limit_and_counted_once() {
    let data = Data::new();
    let bad = spoil(&data, 3);
    let dir = tempfile::tempdir().unwrap();
    let (plan, trainer) = data.trainer(&[], WorkDir::create(dir.path()).unwrap());
    let borne = train(&plan, &bear(trainer, 3)).unwrap();
    let told: Vec<String> = log_lines(dir.path())
        .into_iter()
        .filter(|line| line["event"] == "bad_image")
        .map(|line| line["reason"].as_str().unwrap().to_owned())
        .collect();
    // Two epochs come by each of them, the second one in silence.
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(bad.iter().all(|name| told.iter().any(|reason| reason.contains(name.as_str()))), "{told:?}");

    // What takes their places does not depend on the workers.
    let again = tempfile::tempdir().unwrap();
    let (plan, trainer) = data.trainer(&["data.num_workers=0"], WorkDir::create(again.path()).unwrap());
    assert_same(&train(&plan, &bear(trainer, 3)).unwrap(), &borne);
    assert_eq!(losses(again.path()), losses(dir.path()));
}

#[test]
fn one_bad_image_too_many_ends_the_run_and_loses_nothing() {
    let data = Data::new();
    spoil(&data, 3);
    for limit in [0, 2] {
        let dir = tempfile::tempdir().unwrap();
        let (plan, trainer) = data.trainer(&["train.length={ epochs = 2 }"], WorkDir::create(dir.path()).unwrap());
        let error = train(&plan, &bear(trainer, limit)).unwrap_err();
        let message = error.to_string();
        assert_eq!(message.contains("one bad image more than the 2 that may be skipped"), limit == 2, "{message}");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("images/"), "{error:?}");
        // The steps before the bad image are saved.
        let work_dir = WorkDir::resume(dir.path()).unwrap();
        let saved = Checkpoint::read_info(&work_dir.resume_from()[0]).unwrap();
        assert_eq!(saved.iteration, losses(dir.path()).len());
    }
}

/// Fails as a log on a full disk does.
struct Full;

impl Observer for Full {
    fn observe(&mut self, event: &Event<'_>) -> Result<(), LogError> {
        match event {
            Event::Logged(Record::Iteration(record)) if record.iteration == 2 => {
                Err(LogError { path: "log.jsonl".into(), source: std::io::ErrorKind::StorageFull.into() })
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn a_log_that_cannot_be_written_ends_the_run() {
    let data = Data::new();
    let dir = tempfile::tempdir().unwrap();
    let (plan, trainer) = data.trainer(&[], WorkDir::create(dir.path()).unwrap());
    let detector = start(&plan);
    let error = trainer.train(detector, &mut Full).map(|outcome| collect(&outcome.detector)).unwrap_err();
    assert!(matches!(error, TrainError::Log(_)), "{error}");
}
