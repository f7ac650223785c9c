//! Reading weights from files, and what is said when that fails.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use cbn_detection::model::backbone::ResNet;
use cbn_detection::model::weights::{BackboneStyle, LoadConfig, StateDict, WeightLayout, load_backbone};
use cbn_detection::model::{ResNetConfig, ResNetDepth};

/// A file that `tools/fixtures/state_dict_files.py` made.
fn file(name: &str) -> PathBuf {
    common::fixture("state_dict_files").join(name)
}

/// What is said of a file that is no good; the file's name is part of it.
#[track_caller]
fn refused(path: &Path) -> String {
    let text = StateDict::read(path).unwrap_err().to_string();
    assert!(text.starts_with(&path.display().to_string()), "{text}");
    text
}

#[test]
fn every_container_holds_the_same_floats() {
    let names = [
        "small.pth",
        "name_of_21_characters.pth",
        "small.safetensors",
        "legacy.pth",
        "training.pth",
        "protocol_2.pkl",
        "protocol_4.pkl",
        "protocol_5.pkl",
    ];
    for name in names {
        let weights = StateDict::read(&file(name)).unwrap();
        let found: BTreeMap<&str, (Vec<usize>, Vec<f32>)> = weights
            .iter()
            .map(|(name, data)| (name, (data.shape().to_vec(), data.as_slice::<f32>().unwrap().to_vec())))
            .collect();
        let expected = BTreeMap::from([
            ("bn1.running_var", (vec![2], vec![0.5, 2.0])),
            ("conv1.weight", (vec![2, 3], vec![0.0, 2.0, 4.0, 6.0, 8.0, 10.0])),
            ("fc.bias", (vec![1], vec![0.25])),
            ("fc.weight", (vec![1, 2], vec![1.5, -3.0])),
        ]);
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn caffe2s_pickle_of_python_2_comes_under_detectron2s_names() {
    let weights = StateDict::read(&file("python2.pkl")).unwrap();
    let found: BTreeMap<&str, &[f32]> =
        weights.iter().map(|(name, data)| (name, data.as_slice::<f32>().unwrap())).collect();
    let expected: BTreeMap<&str, &[f32]> = BTreeMap::from([
        ("conv1_b", [0.0, 0.0].as_slice()),
        ("conv1_w_momentum", &[1.0; 6]),
        ("pred_w", &[1.0; 3]),
        ("res2.0.conv1.weight", &[0.0, 1.0, 2.0, 3.0]),
        ("stem.conv1.norm.bias", &[1.0, -3.0]),
        ("stem.conv1.norm.running_mean", &[0.0, 0.0]),
        ("stem.conv1.norm.running_var", &[1.0; 2]),
        ("stem.conv1.norm.weight", &[0.5, 2.0]),
        ("stem.conv1.weight", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn files_that_are_cut_off_or_no_weights_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        refused(&path)
    };
    assert!(refused("model.onnx", b"").ends_with("weights are read from .safetensors, .pth, .pt and .pkl files"));
    refused("model.safetensors", b"{}");
    for name in ["model.pth", "model.pkl"] {
        refused(name, b"not a pickle");
        refused(name, b"");
        refused(name, b"\x89PNG\r\n\x1a\n");
    }
    // At many lengths: half a pickle, half a storage, no end.
    for name in ["small.pth", "small.safetensors", "legacy.pth", "protocol_2.pkl", "protocol_4.pkl"] {
        let whole = std::fs::read(file(name)).unwrap();
        for len in (0..whole.len()).step_by(11).chain([whole.len() - 1]) {
            refused(name, &whole[..len]);
        }
    }
}

#[test]
fn a_pickle_is_never_executed() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["call.pth", "call_legacy.pth", "call_alone.pth", "call.pkl"] {
        let path = folder.path().join(name);
        std::fs::copy(file(name), &path).unwrap();
        let text = refused(&path);
        assert!(name == "call_alone.pth" || text.contains("fc.bias is no "), "{text}");
        assert!(name == "call.pkl" || text.contains("posix.system"), "{text}");
    }
    // The call would leave this file where the tests run.
    assert!(!Path::new("executed_by_pickle").exists());
}

#[test]
fn a_pickle_that_contains_itself_ends() {
    let text = refused(&file("cycle.pkl"));
    assert!(text.contains("ecursive"), "{text}");
    let text = refused(&file("cycle.pth"));
    assert!(text.ends_with(": self is no tensor"), "{text}");
}

#[test]
fn tensors_are_no_larger_than_their_file() {
    for name in ["expanded.pth", "shared.pth"] {
        let text = refused(&file(name));
        assert!(text.contains(" claim "), "{text}");
    }
    let text = refused(&file("shared.pkl"));
    assert!(text.contains("1 is no NumPy array of its own"), "{text}");
    let text = refused(&file("declared.pkl"));
    assert!(
        text.ends_with("conv1.weight: 24 bytes for an array [2, 1073741824], which should be of 32-bit floats"),
        "{text}"
    );
}

#[test]
fn a_weight_that_is_not_a_number_is_named() {
    let expected = "tensor bn1.running_var has a value that is not a finite number (of 2, value 1 is NaN)";
    let text = refused(&file("nan.pth"));
    assert!(text.ends_with(expected), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nan.safetensors");
    let weights = StateDict::new([("bn1.running_var".to_owned(), TensorData::from([1.0_f32, f32::NAN]))]);
    weights.write(&path, &[]).unwrap();
    let text = refused(&path);
    assert!(text.ends_with(expected), "{text}");
}

fn resnet18(frozen_stages: usize) -> ResNet {
    ResNetConfig { depth: ResNetDepth::R18, frozen_stages, ..ResNetConfig::default() }.init(&Device::flex().autodiff())
}

/// torchvision's `resnet18`, with the classifier that a backbone has not, all tensors filled with `value`.
fn torchvision_resnet18(prefix: &str, value: f32) -> StateDict {
    let mut tensors: BTreeMap<String, TensorData> = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        tensors.insert(format!("{prefix}{name}"), TensorData::full(shape.to_vec(), value));
    };
    let mut conv_norm = |conv: String, norm: String, shape: [usize; 4]| {
        add(format!("{conv}.weight"), &shape);
        for tensor in ["weight", "bias", "running_mean", "running_var"] {
            add(format!("{norm}.{tensor}"), &shape[..1]);
        }
    };
    conv_norm("conv1".into(), "bn1".into(), [64, 3, 7, 7]);
    let mut inputs = 64;
    for (stage, outputs) in [(1, 64), (2, 128), (3, 256), (4, 512)] {
        for block in 0..2 {
            let at = format!("layer{stage}.{block}");
            conv_norm(format!("{at}.conv1"), format!("{at}.bn1"), [outputs, inputs, 3, 3]);
            conv_norm(format!("{at}.conv2"), format!("{at}.bn2"), [outputs, outputs, 3, 3]);
            if inputs != outputs {
                conv_norm(format!("{at}.downsample.0"), format!("{at}.downsample.1"), [outputs, inputs, 1, 1]);
            }
            inputs = outputs;
        }
    }
    add("fc.weight".into(), &[1000, 512]);
    StateDict::new(tensors)
}

/// The values of all parameters, and how many of them train.
#[derive(Default)]
struct Parameters {
    values: Vec<f32>,
    num_trainable: usize,
}

impl ModuleVisitor for Parameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.values.extend(param.val().try_into_vec_as::<f32>().unwrap());
        self.num_trainable += usize::from(param.val().is_require_grad());
    }
}

fn parameters(module: &impl Module) -> Parameters {
    let mut parameters = Parameters::default();
    module.visit(&mut parameters);
    parameters
}

#[test]
fn a_backbone_is_loaded_from_a_classifier_and_from_a_detector() {
    for prefix in ["", "backbone.body."] {
        let before = resnet18(1);
        let num_trainable = parameters(&before).num_trainable;
        let after = parameters(&load_backbone(before, &torchvision_resnet18(prefix, 0.5)).unwrap());
        assert!(after.values.iter().all(|&value| value == 0.5));
        assert_eq!(after.num_trainable, num_trainable, "frozen stages stay frozen");
    }
}

/// As detectron2's names are, with what a file of Caffe2 has besides.
#[test]
fn a_backbone_leaves_caffe2s_classifier_and_velocities() {
    let detectron2_name = |name: &str| {
        let name = if name.starts_with("conv1.") { format!("stem.{name}") } else { name.to_owned() };
        let name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm");
        let name = if name.starts_with("bn1") { format!("stem.{name}") } else { name };
        let name = name.replace("bn1", "conv1.norm").replace("bn2", "conv2.norm").replace("fc.weight", "fc1000_w");
        (1..=4).rev().fold(name, |name, stage| name.replace(&format!("layer{stage}"), &format!("res{}", stage + 1)))
    };
    let weights = torchvision_resnet18("", 0.5);
    let renamed = weights.iter().map(|(name, data)| (detectron2_name(name), data.clone()));
    let others = ["conv1_b", "pred_b", "res2_0_branch2a_w_momentum"];
    let others = others.map(|name| (name.to_owned(), TensorData::full(vec![64], 0.0_f32)));
    let loaded = LoadConfig::default().load_backbone(resnet18(1), &StateDict::new(renamed.chain(others))).unwrap();
    assert_eq!(loaded.layout, WeightLayout::Detectron2);
    assert_eq!(loaded.unused, ["conv1_b", "fc1000_w", "pred_b", "res2_0_branch2a_w_momentum"]);
    let values = parameters(&loaded.module).values;
    // The stem is converted; all else is as in the file.
    assert!(values[64 * 3 * 49..].iter().all(|&value| value == 0.5));
}

#[test]
fn strides_tell_the_styles_apart() {
    let resnet50 = |stride_in_1x1| ResNetConfig { stride_in_1x1, ..ResNetConfig::default() }.init(&Device::flex());
    let weights = StateDict::new([("stem.conv1.weight".to_owned(), TensorData::full(vec![64, 3, 7, 7], 0.5_f32))]);
    for (style, refused) in [
        (BackboneStyle::Pytorch, "set model.backbone.stride_in_1x1 = false"),
        (BackboneStyle::Caffe, "set model.backbone.stride_in_1x1 = true"),
        (BackboneStyle::Caffe2, "set model.backbone.stride_in_1x1 = false"),
    ] {
        let load = |stride_in_1x1| {
            let config = LoadConfig { style: Some(style), ..LoadConfig::default() };
            config.load_backbone(resnet50(stride_in_1x1), &weights).unwrap_err().to_string()
        };
        let has_stride_in_1x1 = style == BackboneStyle::Caffe;
        assert!(load(!has_stride_in_1x1).contains(refused), "{style:?}");
        assert!(load(has_stride_in_1x1).contains("missing (stem.conv1.norm.weight"), "{style:?}");
    }
}

#[test]
fn a_backbone_of_another_depth_is_refused() {
    let resnet50 = ResNetConfig::default().init(&Device::flex());
    let text = load_backbone(resnet50, &torchvision_resnet18("", 0.5)).unwrap_err().to_string();
    assert!(text.contains("missing (layer1.0.conv3.weight"), "{text}");
    assert!(
        text.contains("of another shape (layer1.0.conv1.weight [64, 64, 3, 3] instead of [64, 64, 1, 1]"),
        "{text}"
    );
}
