//! The ONNX file's form. What it computes is compared in ONNX Runtime by `tools/parity/onnx_detections.py`.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use std::collections::BTreeSet;

use burn::tensor::Device;
use cbn::{CbnConfig, GroupNormConfig, NormConfig};
use cbn_detection::data::TransformConfig;
use cbn_detection::export::to_onnx;
use cbn_detection::model::{Detector, DetectorConfig, MaskBranchConfig, ResNetDepth};

fn config(norm: NormConfig) -> DetectorConfig {
    let mask = MaskBranchConfig { channels: 8, num_convs: 1, norm: norm.clone(), ..MaskBranchConfig::default() };
    let mut config = DetectorConfig::new(3).with_mask_head(mask);
    config.backbone.depth = ResNetDepth::R18;
    (config.neck.channels, config.neck.norm, config.box_head.fc_dim) = (8, norm, 8);
    config
}

#[test]
fn every_value_is_made_before_it_is_used_and_no_norm_is_left() {
    let config = config(NormConfig::CrossIteration(CbnConfig::published()));
    let detector = Detector::init(&config, &Device::flex());
    let metadata = [("classes", "[]".to_owned())];
    let bytes = to_onnx(&detector, &config, &TransformConfig::default(), &metadata).unwrap();
    let model = onnx_rs::parse(&bytes).unwrap();
    assert_eq!(model.opset_import[0].version, 17);
    assert_eq!((model.metadata_props[0].key, model.metadata_props[0].value), ("classes", "[]"));
    let graph = model.graph.as_ref().unwrap();
    let outputs: Vec<&str> = graph.output.iter().map(|output| output.name).collect();
    assert_eq!(outputs, ["boxes", "scores", "labels", "masks"]);
    let mut known: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    known.insert("image");
    let mut kinds = BTreeSet::new();
    for node in &graph.node {
        // An input without a name is one that is left out.
        assert!(node.input.iter().all(|input| input.is_empty() || known.contains(input)), "{}", node.name);
        assert!(node.output.iter().all(|output| known.insert(output)), "{} makes a value again", node.name);
        kinds.insert(node.op_type.as_str());
    }
    assert!(outputs.iter().all(|output| known.contains(output)));
    assert!(kinds.contains("RoiAlign") && kinds.contains("NonMaxSuppression"), "{kinds:?}");
    assert!(!kinds.iter().any(|kind| kind.contains("Normalization")), "{kinds:?}");
}

#[test]
fn what_does_not_fold_is_refused() {
    let config = config(NormConfig::Group(GroupNormConfig::new(2)));
    let detector = Detector::init(&config, &Device::flex());
    let error = to_onnx(&detector, &config, &TransformConfig::default(), &[]).unwrap_err();
    assert!(error.to_string().contains("the neck has group norm"), "{error}");
    let odd = TransformConfig { size_divisor: 1, ..TransformConfig::default() };
    let error = to_onnx(&detector, &config, &odd, &[]).unwrap_err();
    assert!(error.to_string().contains("data.transform.size_divisor is 1"), "{error}");
}
