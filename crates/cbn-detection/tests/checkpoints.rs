//! Checkpoints: what is saved comes back, and a file that does not fit says why.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use cbn_detection::data::Category;
use cbn_detection::train::{
    BestScore, Checkpoint, CheckpointError, CheckpointInfo, NamedTensors, Sgd, SgdConfig, collect,
};

#[derive(Module, Debug)]
struct Layer {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Network {
    first: Layer,
    second: Vec<Layer>,
}

fn network(num_layers: usize, width: usize) -> Network {
    let device = Device::flex().autodiff();
    let layer = |index: usize| Layer {
        weight: Param::from_tensor(Tensor::full([width, 2], 0.5 + index as f32, &device)),
        bias: Param::from_data([0.25 + index as f32], &device),
    };
    Network { first: layer(0), second: (1..num_layers).map(layer).collect() }
}

fn checkpoint(network: &Network) -> Checkpoint {
    Checkpoint {
        info: CheckpointInfo {
            iteration: 12,
            seed: 7,
            best: Some(BestScore { iteration: 6, metric: "segm".into(), ap: 0.25 }),
            categories: vec![Category { id: 18, name: "dog".into() }],
            plan: serde_json::json!({ "train": { "num_iterations": 24 } }),
        },
        model: collect(network),
        velocities: NamedTensors::from([("first.bias".to_owned(), network.first.bias.val().into_data())]),
        averages: NamedTensors::from([("first.weight".to_owned(), (network.first.weight.val() * 2.0).into_data())]),
        others: Vec::new(),
    }
}

fn saved(path: &Path) {
    checkpoint(&network(2, 3)).save(path).unwrap();
}

#[test]
fn everything_comes_back_under_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let mut original = checkpoint(&network(3, 3));
    let of_third = NamedTensors::from([("first.bias".to_owned(), network(1, 3).first.bias.val().into_data())]);
    original.others = vec![NamedTensors::new(), of_third];
    original.save(&path).unwrap();
    let loaded = Checkpoint::load(&path).unwrap();
    assert_eq!(loaded.info, original.info);
    assert_eq!(loaded.model, original.model);
    assert_eq!(loaded.velocities, original.velocities);
    assert_eq!(loaded.averages, original.averages);
    assert_eq!(loaded.others, original.others);
    assert_eq!(Checkpoint::read_info(&path).unwrap(), original.info);
    let names: Vec<&str> = loaded.model.keys().map(String::as_str).collect();
    let expected =
        ["first.bias", "first.weight", "second.0.bias", "second.0.weight", "second.1.bias", "second.1.weight"];
    assert_eq!(names, expected);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no unfinished file stays behind");
}

#[test]
fn a_restored_module_has_the_values_and_still_trains() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let mut changed = network(2, 3);
    changed.first.bias = Param::from_data([9.0], &Device::flex().autodiff());
    checkpoint(&changed).save(&path).unwrap();

    let mut loaded = Checkpoint::load(&path).unwrap();
    let restored = loaded.restore_model(&path, network(2, 3)).unwrap();
    assert_eq!(collect(&restored), collect(&changed));
    assert!(restored.first.bias.is_require_grad());
    let mut sgd = Sgd::new(SgdConfig { momentum: 0.9, weight_decay: 0.0 });
    sgd.restore(&restored, loaded.velocities).unwrap();
    assert_eq!(sgd.state(&restored).len(), 1);
}

#[test]
fn another_architecture_is_named_key_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    saved(&path);
    let message = |network: Network| {
        let error = Checkpoint::load(&path).unwrap().restore_model(&path, network).unwrap_err();
        assert!(matches!(error, CheckpointError::OtherArchitecture { .. }));
        error.to_string()
    };
    let more = message(network(4, 3));
    assert!(
        more.ends_with("is of another architecture: 4 missing (second.1.bias, second.1.weight, second.2.bias, ...)"),
        "{more}"
    );
    let fewer = message(network(1, 3));
    assert!(fewer.ends_with("2 not in the model (second.0.bias, second.0.weight)"), "{fewer}");
    let wider = message(network(2, 5));
    assert!(
        wider.ends_with(
            "2 of another shape (first.weight [3, 2] instead of [5, 2], second.0.weight [3, 2] instead of [5, 2])"
        ),
        "{wider}"
    );
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("a.safetensors");
    saved(&whole);
    let bytes = std::fs::read(&whole).unwrap();
    let part = dir.path().join("part.safetensors");
    for len in [0, 5, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&part, &bytes[..len]).unwrap();
        let error = Checkpoint::load(&part).unwrap_err();
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{len} bytes: {error}");
        assert!(error.to_string().contains("part.safetensors is cut off or not a safetensors file"), "{error}");
    }
}

#[test]
fn a_single_bit_that_changed_is_found_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("a.safetensors");
    saved(&whole);
    let bytes = std::fs::read(&whole).unwrap();
    let altered = dir.path().join("altered.safetensors");
    for place in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        std::fs::write(&altered, &bytes).unwrap();
        // A changed length or name makes another error than a changed weight, but none goes unnoticed.
        let loaded = Checkpoint::load(&altered);
        assert!(loaded.is_err(), "byte {place} of {}", bytes.len());
    }
}

#[test]
fn inference_takes_the_average_where_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    saved(&path);
    let restored = Checkpoint::load(&path).unwrap().restore_for_inference(&path, network(2, 3)).unwrap();
    let first = |tensor: Tensor<2>| tensor.into_data().iter::<f32>().next().unwrap();
    // Weights are 0.5, and the average was made twice as large.
    assert_eq!((first(restored.first.weight.val()), first(restored.second[0].weight.val())), (1.0, 1.5));
}

#[test]
fn a_safetensors_file_of_someone_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.safetensors");
    let empty: Vec<(String, safetensors::tensor::TensorView<'_>)> = Vec::new();
    safetensors::serialize_to_file(empty, None, &path).unwrap();
    let error = Checkpoint::load(&path).unwrap_err();
    assert!(matches!(error, CheckpointError::NotACheckpoint { .. }), "{error}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = checkpoint(&network(1, 1)).save(&file.join("a.safetensors")).unwrap_err();
    assert!(error.to_string().starts_with("cannot write checkpoint "), "{error}");
}
