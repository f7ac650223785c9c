//! Weights in the names and orders of other libraries, in and out.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

mod common;

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use cbn::norm::EpsilonPlace;
use cbn::{Activation, BatchNormConfig, CbnConfig, ConvNorm, ConvNormConfig, FeatureMap, GroupNormConfig, NormConfig};
use cbn_detection::model::backbone::{ResNet, ResidualBlock};
use cbn_detection::model::roi::RoiHeads;
use cbn_detection::model::weights::{
    BackboneStyle, LoadConfig, StateDict, WeightLayout, WeightsError, export_detector, load_detector,
};
use cbn_detection::model::{
    BoxBranchConfig, BoxHeadKind, Detector, FpnConfig, MaskBranchConfig, ResNetConfig, ResNetDepth, RoiPoolConfig,
    RoiRule, RpnConfig,
};
use safetensors::SafeTensors;

/// Those of `tools/fixtures/mmdet_legacy.py`.
const WIDTHS: [usize; 4] = [4, 6, 8, 10];
const CHANNELS: usize = 6;
const HIDDEN: usize = 12;
const SIDE: usize = 3;

/// A ResNet with one basic block a stage.
fn tiny_resnet(device: &Device) -> ResNet {
    let conv = |channels: [usize; 2], side: usize, stride: usize, activation: Activation| {
        ConvNormConfig::new(channels, [side, side])
            .with_stride([stride, stride])
            .with_padding([side / 2, side / 2])
            .with_norm(NormConfig::Batch(BatchNormConfig::default()))
            .with_activation(activation)
            .init(device)
    };
    let block = |inputs: usize, outputs: usize, stride: usize| ResidualBlock {
        convs: vec![
            conv([inputs, outputs], 3, stride, Activation::Relu),
            conv([outputs, outputs], 3, 1, Activation::Relu),
        ],
        shortcut: (stride != 1).then(|| conv([inputs, outputs], 1, stride, Activation::None)),
    };
    let [a, b, c, d] = WIDTHS;
    let stages = vec![vec![block(a, a, 1)], vec![block(a, b, 2)], vec![block(b, c, 2)], vec![block(c, d, 2)]];
    ResNet { stem: conv([3, a], 7, 2, Activation::Relu), stages }
}

/// The detector of `tools/fixtures/mmdet_legacy.py` with any norm in neck and heads, and any number of classes.
fn tiny_detector(norm: &NormConfig, num_classes: usize) -> Detector {
    let device = Device::flex();
    let pool = RoiPoolConfig { side: SIDE, sampling_ratio: 2, aligned: false, rule: RoiRule::Torchvision };
    let boxes = BoxBranchConfig {
        head: BoxHeadKind::FourConvOneFc,
        norm: norm.clone(),
        fc_dim: HIDDEN,
        pool,
        ..BoxBranchConfig::default()
    };
    let mask =
        MaskBranchConfig { pool, num_convs: 2, channels: CHANNELS, norm: norm.clone(), ..MaskBranchConfig::default() };
    Detector {
        backbone: tiny_resnet(&device),
        neck: FpnConfig { channels: CHANNELS, norm: norm.clone() }.init(&WIDTHS, &device),
        rpn: RpnConfig::default().init(CHANNELS, &device),
        roi: RoiHeads {
            boxes: boxes.init(CHANNELS, num_classes, &device),
            mask: Some(mask.init(CHANNELS, num_classes, &device)),
        },
    }
}

fn published_cbn() -> NormConfig {
    NormConfig::CrossIteration(CbnConfig::published())
}

/// Every parameter another number, so that no two can be exchanged unnoticed.
fn numbered(detector: &Detector, layout: WeightLayout) -> StateDict {
    let mut next = 0.0;
    let numbered = export_detector(detector, layout)
        .iter()
        .map(|(name, data)| {
            let values: Vec<f32> = data
                .as_slice::<f32>()
                .unwrap()
                .iter()
                .map(|_| {
                    next += 1.0;
                    next
                })
                .collect();
            (name.to_owned(), TensorData::new(values, data.shape().to_vec()))
        })
        .collect::<Vec<_>>();
    StateDict::new(numbered)
}

fn values(weights: &StateDict) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let values = |data: &TensorData| (data.shape().to_vec(), data.as_slice::<f32>().unwrap().to_vec());
    weights.iter().map(|(name, data)| (name.to_owned(), values(data))).collect()
}

const LAYOUTS: [WeightLayout; 5] =
    [WeightLayout::Cbn, WeightLayout::Torchvision, WeightLayout::Mmdet, WeightLayout::Mmdet2, WeightLayout::Detectron2];

/// Basic blocks have no stride to disagree about, but their stem may be of either style.
fn pytorch_style() -> LoadConfig {
    LoadConfig { style: Some(BackboneStyle::Pytorch), ..LoadConfig::default() }
}

#[test]
fn a_detector_goes_out_and_in_again_in_every_layout() {
    let cbn = NormConfig::CrossIteration(CbnConfig::paper());
    for norm in [cbn, NormConfig::Group(GroupNormConfig::new(2)), NormConfig::Identity] {
        let detector = tiny_detector(&norm, 3);
        let ours = numbered(&detector, WeightLayout::Cbn);
        let detector = load_detector(detector, &ours).unwrap();
        for layout in LAYOUTS {
            let theirs = export_detector(&detector, layout);
            let loaded = pytorch_style().load_detector(tiny_detector(&norm, 3), &theirs).unwrap();
            assert_eq!(loaded.layout, layout, "{norm:?}");
            let again = values(&export_detector(&loaded.module, WeightLayout::Cbn));
            for (name, found) in &again {
                let mut expected = values(&ours)[name].clone();
                // What is never predicted does not exist there, and comes back as zeros.
                let has_no_background = matches!(layout, WeightLayout::Mmdet2 | WeightLayout::Detectron2);
                if has_no_background && (name.contains("boxes.head.deltas") || name.contains("mask.head.logits")) {
                    forget_background(&mut expected, name);
                }
                assert_eq!(*found, expected, "{layout} {name} {norm:?}");
            }
        }
    }
}

/// The released layer adds eps to the standard deviation; what torchvision's batch norm computes of the exported weights is the same.
#[test]
fn an_exported_norm_computes_the_same_with_the_eps_of_the_other_library() {
    let detector = legacy_detector(&published_cbn());
    let batch_norm = NormConfig::Batch(BatchNormConfig::default());
    let theirs = export_detector(&detector, WeightLayout::Torchvision);
    let loaded = load_detector(tiny_detector(&batch_norm, 3), &theirs).unwrap();
    let image = formula([1, 3, 64, 64]);
    let [ours, theirs] = [&detector, &loaded].map(|detector| detector.neck.forward(&detector.backbone.forward(&image)));
    for (ours, theirs) in ours.levels.iter().zip(&theirs.levels) {
        let (ours, theirs) = (host(ours.to_nchw()), host(theirs.to_nchw()));
        let largest = ours.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let difference = ours.iter().zip(&theirs).fold(0.0_f32, |largest, (a, b)| largest.max((a - b).abs()));
        // Gamma is rounded once more than before, in each of 8 norms; what another eps does, `the_place_of_eps_shows`.
        assert!(difference < 2e-6 * largest, "{}", difference / largest);
    }
    // The released code has its eps where ours is, and gets the same numbers back.
    let original = StateDict::read(&common::fixture("mmdet_legacy/checkpoint.pth")).unwrap();
    assert_eq!(values(&export_detector(&detector, WeightLayout::Mmdet)), values(&original));
}

fn forget_background((shape, values): &mut (Vec<usize>, Vec<f32>), name: &str) {
    // Deltas are [in, 4 classes] or [4 classes], mask logits [classes, in, 1, 1] or [classes].
    if name.contains("boxes.head.deltas") {
        let row = *shape.last().unwrap();
        values.chunks_exact_mut(row).for_each(|row| row[..4].fill(0.0));
    } else {
        let of_class = values.len() / shape[0];
        values[..of_class].fill(0.0);
    }
}

/// Counts, names and shapes of torchvision 0.26's `maskrcnn_resnet50_fpn` are checked by tests/torchvision_parity.rs; these are the marks of the others.
#[test]
fn names_are_those_of_the_other_library() {
    let detector = tiny_detector(&published_cbn(), 3);
    for (layout, name, shape) in [
        (WeightLayout::Mmdet, "mask_head.convs.1.bn.running_var", vec![CHANNELS]),
        (WeightLayout::Mmdet, "bbox_head.fc_reg.weight", vec![16, HIDDEN]),
        (WeightLayout::Mmdet2, "roi_head.bbox_head.fc_reg.weight", vec![12, HIDDEN]),
        (WeightLayout::Mmdet2, "roi_head.mask_head.conv_logits.bias", vec![3]),
        (WeightLayout::Detectron2, "roi_heads.box_predictor.cls_score.bias", vec![4]),
        (WeightLayout::Detectron2, "backbone.fpn_lateral5.norm.weight", vec![CHANNELS]),
        (WeightLayout::Torchvision, "roi_heads.box_head.5.weight", vec![HIDDEN, CHANNELS * SIDE * SIDE]),
        (WeightLayout::Torchvision, "roi_heads.box_head.3.1.running_mean", vec![CHANNELS]),
    ] {
        let weights = values(&export_detector(&detector, layout));
        assert_eq!(weights.get(name).map(|(shape, _)| shape), Some(&shape), "{layout} {name}");
    }
}

#[test]
fn another_number_of_classes_is_an_error_unless_asked_for() {
    for layout in LAYOUTS {
        let weights = export_detector(&tiny_detector(&published_cbn(), 5), layout);
        let before = values(&export_detector(&tiny_detector(&published_cbn(), 3), WeightLayout::Cbn));
        let detector = load_detector(
            tiny_detector(&published_cbn(), 3),
            &StateDict::new(
                before.clone().into_iter().map(|(name, (shape, values))| (name, TensorData::new(values, shape))),
            ),
        )
        .unwrap();
        let error = pytorch_style().load_detector(detector.clone(), &weights).unwrap_err();
        assert!(
            matches!(&error, WeightsError::ClassCount { found: 5, expected: 3, tensors } if tensors.len() == 6),
            "{error}"
        );
        let config = LoadConfig { replace_class_heads: true, ..pytorch_style() };
        let loaded = config.load_detector(detector, &weights).unwrap();
        let anew = [
            "roi.boxes.head.class_logits.weight",
            "roi.boxes.head.class_logits.bias",
            "roi.boxes.head.deltas.weight",
            "roi.boxes.head.deltas.bias",
            "roi.mask.head.logits.weight",
            "roi.mask.head.logits.bias",
        ];
        assert_eq!(loaded.anew, anew, "{layout}");
        let after = values(&export_detector(&loaded.module, WeightLayout::Cbn));
        for name in anew {
            assert_eq!(after[name], before[name], "{layout} {name} keeps its values");
        }
    }
}

#[test]
fn every_key_that_does_not_fit_is_listed_by_its_own_name() {
    let detector = tiny_detector(&NormConfig::Identity, 3);
    let mut weights: BTreeMap<String, TensorData> = export_detector(&detector, WeightLayout::Mmdet2)
        .iter()
        .map(|(name, data)| (name.to_owned(), data.clone()))
        .collect();
    weights.remove("rpn_head.rpn_cls.bias");
    weights.insert("neck.fpn_convs.4.conv.weight".into(), TensorData::zeros::<f32, _>([1]));
    weights.insert("roi_head.mask_head.upsample.bias".into(), TensorData::zeros::<f32, _>([7]));
    let error = load_detector(detector, &StateDict::new(weights)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the weights (names as in mmdet2) are of another model: 1 missing (rpn_head.rpn_cls.bias); 1 not in the model \
         (neck.fpn_convs.4.conv.weight); 1 of another shape (roi_head.mask_head.upsample.bias [7] instead of [6])"
    );
    let foreign = StateDict::new([("encoder.weight".to_owned(), TensorData::zeros::<f32, _>([1]))]);
    let text = load_detector(tiny_detector(&NormConfig::Identity, 3), &foreign).unwrap_err().to_string();
    assert!(text.contains("(the first is encoder.weight)"), "{text}");
}

#[test]
fn a_bottleneck_of_the_other_style_is_refused() {
    let resnet = |stride_in_1x1: bool| {
        ResNetConfig { depth: ResNetDepth::R50, stride_in_1x1, ..ResNetConfig::default() }.init(&Device::flex())
    };
    let caffe = StateDict::new([("stem.conv1.weight".to_owned(), TensorData::zeros::<f32, _>([64, 3, 7, 7]))]);
    let told = |config: LoadConfig, stride_in_1x1: bool| {
        config.load_backbone(resnet(stride_in_1x1), &caffe).unwrap_err().to_string()
    };
    assert!(told(LoadConfig::default(), false).contains("set model.backbone.stride_in_1x1 = true"));
    assert!(told(pytorch_style(), true).contains("set model.backbone.stride_in_1x1 = false"));
    // Of the right style, what is wrong is that the file has one tensor.
    for (config, stride_in_1x1) in [(LoadConfig::default(), true), (pytorch_style(), false)] {
        assert!(
            told(config, stride_in_1x1).contains("264 missing (stem.conv1.norm.weight, "),
            "{}",
            told(config, stride_in_1x1)
        );
    }
}

/// What the model of `tools/fixtures/mmdet_legacy.py` puts out.
struct Expected {
    bytes: Vec<u8>,
}

impl Expected {
    /// Both sides compute in f32, in another order; sums have at most 90 products, behind at most 16 layers.
    const TOLERANCE: f32 = 2e-5;

    fn assert_close(&self, name: &str, found: &[f32]) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let bytes = file.tensor(name).unwrap();
        let expected: Vec<f32> =
            bytes.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let difference = found.iter().zip(&expected).fold(0.0_f32, |largest, (a, b)| largest.max((a - b).abs()));
        assert!(difference <= Self::TOLERANCE * largest, "{name}: relative difference {:e}", difference / largest);
    }
}

/// `formula` of the script.
fn formula(shape: [usize; 4]) -> FeatureMap {
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| (i as f64 * 0.7).sin() as f32).collect();
    FeatureMap::from_nchw(Tensor::from_data(TensorData::new(values, shape), &Device::flex()))
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

fn legacy_detector(norm: &NormConfig) -> Detector {
    let weights = StateDict::read(&common::fixture("mmdet_legacy/checkpoint.pth")).unwrap();
    let loaded = LoadConfig::default().load_detector(tiny_detector(norm, 3), &weights).unwrap();
    assert_eq!((loaded.layout, loaded.unused.len()), (WeightLayout::Mmdet, 0));
    loaded.module
}

#[test]
fn a_legacy_checkpoint_of_mmdetection_computes_what_it_computed_there() {
    let expected = Expected { bytes: std::fs::read(common::fixture("mmdet_legacy/outputs.safetensors")).unwrap() };
    let detector = legacy_detector(&published_cbn());
    let pyramid = detector.neck.forward(&detector.backbone.forward(&formula([1, 3, 64, 64])));
    for (level, map) in pyramid.levels.iter().enumerate() {
        expected.assert_close(&format!("p{}", level + 2), &host(map.to_nchw()));
    }
    let rpn = detector.rpn.head.forward(&pyramid);
    expected.assert_close("rpn_logits", &host(rpn.objectness()));
    expected.assert_close("rpn_deltas", &host(rpn.deltas()));
    let pooled = formula([2, CHANNELS, SIDE, SIDE]);
    let boxes = detector.roi.boxes.head.forward(pooled.clone());
    expected.assert_close("class_logits", &host(boxes.class_logits));
    expected.assert_close("box_deltas", &host(boxes.deltas));
    expected.assert_close("mask_logits", &host(detector.roi.mask.unwrap().head.forward(pooled).to_nchw()));
}

/// The tolerance above tells the released layer's eps from batch norm's.
#[test]
#[should_panic(expected = "relative difference")]
fn the_place_of_eps_shows() {
    let expected = Expected { bytes: std::fs::read(common::fixture("mmdet_legacy/outputs.safetensors")).unwrap() };
    let inside = CbnConfig { epsilon_place: EpsilonPlace::InsideRoot, ..CbnConfig::published() };
    let detector = legacy_detector(&NormConfig::CrossIteration(inside));
    let pyramid = detector.neck.forward(&detector.backbone.forward(&formula([1, 3, 64, 64])));
    expected.assert_close("p2", &host(pyramid.levels[0].to_nchw()));
}

#[test]
fn a_backbone_is_taken_out_of_a_detector_of_any_layout() {
    let detector = tiny_detector(&NormConfig::Identity, 3);
    let ours = numbered(&detector, WeightLayout::Cbn);
    let detector = load_detector(detector, &ours).unwrap();
    let stem_of = |stem: &ConvNorm| host(stem.weight.val());
    for layout in LAYOUTS {
        let loaded =
            pytorch_style().load_backbone(tiny_resnet(&Device::flex()), &export_detector(&detector, layout)).unwrap();
        assert_eq!(stem_of(&loaded.module.stem), stem_of(&detector.backbone.stem), "{layout}");
        assert!(!loaded.unused.is_empty(), "the rest of the detector is told");
    }
}
