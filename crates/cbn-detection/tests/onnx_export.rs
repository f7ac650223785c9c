//! The ONNX file's form. What it computes is compared in ONNX Runtime by `tools/parity/onnx_detections.py`.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use std::collections::BTreeSet;

use burn::tensor::Device;
use cbn::{CbnConfig, GroupNormConfig, NormConfig};
use cbn_detection::data::TransformConfig;
use cbn_detection::export::to_onnx;
use cbn_detection::model::{
    AnchorLayout, Detector, DetectorConfig, MaskBranchConfig, ResNetDepth, RoiRule, SuppressionScale,
};
use cbn_detection::structures::BoxConvention;

fn config(norm: NormConfig) -> DetectorConfig {
    let mask = MaskBranchConfig { channels: 8, num_convs: 1, norm: norm.clone(), ..MaskBranchConfig::default() };
    let mut config = DetectorConfig::new(3).with_mask_head(mask);
    config.backbone.depth = ResNetDepth::R18;
    (config.neck.channels, config.neck.norm, config.box_head.fc_dim) = (8, norm, 8);
    config
}

/// The kinds of operations in the detector's graph, all of whose values are made before they are used, and the names of its inputs.
fn operations_and_inputs(config: &DetectorConfig) -> (BTreeSet<String>, Vec<String>) {
    let detector = Detector::init(config, &Device::flex());
    let metadata = [("classes", "[]".to_owned())];
    let bytes = to_onnx(&detector, config, &TransformConfig::default(), &metadata).unwrap();
    let model = onnx_rs::parse(&bytes).unwrap();
    assert_eq!(model.opset_import[0].version, 17);
    assert_eq!((model.metadata_props[0].key, model.metadata_props[0].value), ("classes", "[]"));
    let graph = model.graph.as_ref().unwrap();
    let outputs: Vec<&str> = graph.output.iter().map(|output| output.name).collect();
    assert_eq!(outputs, ["boxes", "scores", "labels", "masks"]);
    let inputs: Vec<String> = graph.input.iter().map(|input| input.name.to_owned()).collect();
    let mut known: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    known.extend(inputs.iter().map(String::as_str));
    let mut kinds = BTreeSet::new();
    for node in &graph.node {
        // An input without a name is one that is left out.
        assert!(node.input.iter().all(|input| input.is_empty() || known.contains(input)), "{}", node.name);
        assert!(node.output.iter().all(|output| known.insert(output)), "{} makes a value again", node.name);
        kinds.insert(node.op_type.as_str().to_owned());
    }
    assert!(outputs.iter().all(|output| known.contains(output)));
    (kinds, inputs)
}

#[test]
fn every_value_is_made_before_it_is_used_and_no_norm_is_left() {
    let (kinds, inputs) = operations_and_inputs(&config(NormConfig::CrossIteration(CbnConfig::published())));
    assert_eq!(inputs, ["image"]);
    assert!(kinds.contains("RoiAlign") && kinds.contains("NonMaxSuppression"), "{kinds:?}");
    assert!(!kinds.iter().any(|kind| kind.contains("Normalization")), "{kinds:?}");
}

#[test]
fn group_norm_stays() {
    let (kinds, _) = operations_and_inputs(&config(NormConfig::Group(GroupNormConfig::new(2))));
    assert!(kinds.contains("InstanceNormalization"), "{kinds:?}");
}

#[test]
fn suppression_in_original_pixels_asks_for_the_scale() {
    let mut config = config(NormConfig::Identity);
    config.rpn.conventions.boxes = BoxConvention::LegacyInclusive;
    config.rpn.conventions.anchors = AnchorLayout::InclusivePixels;
    config.box_head.conventions.boxes = BoxConvention::LegacyInclusive;
    config.box_head.conventions.suppression = SuppressionScale::Original;
    config.box_head.pool.rule = RoiRule::Released;
    assert_eq!(operations_and_inputs(&config).1, ["image", "scale"]);
}

#[test]
fn padding_that_enlarges_maps_unevenly_is_refused() {
    let config = config(NormConfig::Identity);
    let detector = Detector::init(&config, &Device::flex());
    let odd = TransformConfig { size_divisor: 1, ..TransformConfig::default() };
    let error = to_onnx(&detector, &config, &odd, &[]).unwrap_err();
    assert!(error.to_string().contains("data.transform.size_divisor is 1"), "{error}");
}
