//! Reading weights from files, and what is said when that fails.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

mod common;

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use cbn_detection::model::backbone::ResNet;
use cbn_detection::model::weights::{StateDict, load_backbone};
use cbn_detection::model::{ResNetConfig, ResNetDepth};

/// The file was made by `tools/fixtures/state_dict_files.py`.
#[test]
fn pytorch_and_safetensors_files_hold_the_same_floats() {
    for name in ["small.pth", "small.safetensors"] {
        let weights = StateDict::read(&common::fixture("state_dict_files").join(name)).unwrap();
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
fn files_that_hold_no_weights_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let text = StateDict::read(&path).unwrap_err().to_string();
        assert!(text.starts_with(&path.display().to_string()), "{text}");
        text
    };
    assert!(refused("model.onnx", b"").ends_with("weights are read from .safetensors, .pth and .pt files"));
    refused("model.safetensors", b"{}");
    refused("model.pth", b"not a pickle");
    let whole = std::fs::read(common::fixture("state_dict_files/small.pth")).unwrap();
    refused("truncated.pth", &whole[..whole.len() / 2]);
    let whole = std::fs::read(common::fixture("state_dict_files/small.safetensors")).unwrap();
    refused("truncated.safetensors", &whole[..whole.len() - 4]);
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
