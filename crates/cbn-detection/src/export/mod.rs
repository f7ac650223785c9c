//! Detectors for other runtimes.
//!
//! The ONNX graph (opset 17) is the whole of inference on one image, apart from resizing before and scaling and pasting after:
//!
//! - in: `image`, `[3, H, W]` floats, RGB from 0 to 255, resized as the recipe says; with the released conventions also `scale`, `[2]` floats, pixels of
//!   that image per pixel of the original, horizontally and vertically: near-duplicates are found in the original's;
//! - out: `boxes` `[N, 4]` (x1, y1, x2, y2 in pixels of that image; edges, also where conventions count the last pixel), `scores` `[N]`, `labels` `[N]` (counted from 0), and of a
//!   Mask R-CNN `masks` `[N, M, M]`: probabilities in the cells of each box.

mod boxes;
mod graph;
mod network;

use onnx_rs::ast::{
    DataType, Dimension, Model, OperatorSetId, StringStringEntry, TensorShape, TensorShapeDimension, TensorTypeProto,
    TypeProto, TypeValue, ValueInfo,
};
use thiserror::Error;

use self::boxes::ImageSides;
use self::graph::{Graph, Value, int};
use self::network::Network;
use crate::data::TransformConfig;
use crate::model::{Detector, DetectorConfig, SuppressionScale};

/// The version of ONNX's operators.
const OPSET: i64 = 17;
/// The version of the format that came with it.
const IR_VERSION: i64 = 8;

/// ONNX's number of 32-bit floats.
const FLOAT: i64 = 1;
/// ONNX's number of 64-bit integers.
const INT64: i64 = 7;

/// A detector that no ONNX graph was made of.
#[derive(Debug, Error)]
pub enum OnnxError {
    /// Odd maps would be enlarged in another way than here.
    #[error("data.transform.size_divisor is {found}: only multiples of 32 are exported")]
    SizeDivisor {
        /// Its value.
        found: usize,
    },
}

/// A trained detector as an ONNX file, norms folded into their convolutions but for group norm. `metadata` is written into it as it is.
///
/// # Errors
///
/// Images are not padded to a multiple of 32.
pub fn to_onnx(
    detector: &Detector,
    config: &DetectorConfig,
    transform: &TransformConfig,
    metadata: &[(&str, String)],
) -> Result<Vec<u8>, OnnxError> {
    if !transform.size_divisor.is_multiple_of(32) {
        return Err(OnnxError::SizeDivisor { found: transform.size_divisor });
    }
    let network = Network::new(detector);
    let mut graph = Graph::default();
    inference(&mut graph, &network, config, transform);
    let mask_side = config.mask_head.as_ref().map(|mask| 2 * mask.pool.side as i64);
    let metadata = metadata.iter().map(|(key, value)| StringStringEntry { key, value });
    let model = Model {
        ir_version: IR_VERSION,
        producer_name: "cbn",
        producer_version: env!("CARGO_PKG_VERSION"),
        opset_import: vec![OperatorSetId { version: OPSET, ..OperatorSetId::default() }],
        graph: Some(onnx_rs::ast::Graph {
            name: "detector",
            node: graph.nodes(),
            initializer: graph.initializers(),
            input: inputs(config.box_head.conventions.suppression),
            output: outputs(mask_side),
            ..onnx_rs::ast::Graph::default()
        }),
        metadata_props: metadata.collect(),
        ..Model::default()
    };
    Ok(onnx_rs::encode(&model))
}

fn inputs(suppression: SuppressionScale) -> Vec<ValueInfo<'static>> {
    let sides = [Dimension::Value(3), Dimension::Param("height"), Dimension::Param("width")];
    let mut inputs = vec![tensor_of("image", DataType::Float, &sides)];
    if suppression == SuppressionScale::Original {
        inputs.push(tensor_of("scale", DataType::Float, &[Dimension::Value(2)]));
    }
    inputs
}

fn outputs(mask_side: Option<i64>) -> Vec<ValueInfo<'static>> {
    let found = Dimension::Param("detections");
    let mut outputs = vec![
        tensor_of("boxes", DataType::Float, &[found.clone(), Dimension::Value(4)]),
        tensor_of("scores", DataType::Float, std::slice::from_ref(&found)),
        tensor_of("labels", DataType::Int64, std::slice::from_ref(&found)),
    ];
    if let Some(side) = mask_side {
        outputs.push(tensor_of("masks", DataType::Float, &[found, Dimension::Value(side), Dimension::Value(side)]));
    }
    outputs
}

/// What goes in or out.
fn tensor_of(name: &'static str, elem_type: DataType, sides: &[Dimension<'static>]) -> ValueInfo<'static> {
    let side =
        |value: &Dimension<'static>| TensorShapeDimension { value: value.clone(), ..TensorShapeDimension::default() };
    let shape = Some(TensorShape { dim: sides.iter().map(side).collect() });
    let value = Some(TypeValue::Tensor(TensorTypeProto { elem_type, shape }));
    ValueInfo { name, r#type: Some(TypeProto { value, ..TypeProto::default() }), ..ValueInfo::default() }
}

fn inference(graph: &mut Graph, network: &Network, config: &DetectorConfig, transform: &TransformConfig) {
    let image = ImageSides { width: side(graph, 2), height: side(graph, 1) };
    let pixels = pixels(graph, transform);
    let levels = network.backbone(graph, &pixels);
    let pyramid = network.neck(graph, &levels);
    let predictions: Vec<[Value; 2]> = pyramid.iter().map(|level| network.rpn(graph, level)).collect();
    let padded = [2, 3].map(|axis| graph.side(&pixels, axis));
    let anchors = boxes::anchors(graph, &config.rpn, &pyramid, &padded);
    let rois = boxes::proposals(graph, &config.rpn, &anchors, &predictions, &image);
    let pooled = boxes::pool(graph, &pyramid, &rois, &config.box_head.pool);
    let [class_logits, deltas] = network.box_head(graph, pooled);
    let predictions = [class_logits.as_str(), &deltas, &rois];
    let [boxes, scores, labels] = boxes::detections(graph, &config.box_head, predictions, config.num_classes, &image);
    if let Some(mask) = &config.mask_head {
        let pooled = boxes::pool(graph, &pyramid, &boxes, &mask.pool);
        let logits = network.mask_head(graph, pooled);
        let masks = own_masks(graph, &logits, &labels, 2 * mask.pool.side);
        graph.name(&masks, "masks");
    }
    for (value, name) in [(boxes, "boxes"), (scores, "scores"), (labels, "labels")] {
        graph.name(&value, name);
    }
}

/// A side of the input image, as a list of one float.
fn side(graph: &mut Graph, axis: i64) -> Value {
    let side = graph.side("image", axis);
    graph.op("Cast", &[&side], vec![int("to", FLOAT)])
}

/// The input image normalised and padded, `[1, 3, H, W]`.
fn pixels(graph: &mut Graph, transform: &TransformConfig) -> Value {
    let mean = graph.floats(&transform.pixel_mean, &[3, 1, 1]);
    let std = graph.floats(&transform.pixel_std, &[3, 1, 1]);
    let x = graph.op("Sub", &["image", &mean], vec![]);
    let x = graph.op("Div", &[&x, &std], vec![]);
    let first = graph.ints(&[0]);
    let x = graph.op("Unsqueeze", &[&x, &first], vec![]);
    let divisor = graph.ints(&[transform.size_divisor as i64]);
    let missing = [2, 3].map(|axis| {
        let side = graph.side(&x, axis);
        let over = graph.op("Mod", &[&side, &divisor], vec![]);
        let missing = graph.op("Sub", &[&divisor, &over], vec![]);
        graph.op("Mod", &[&missing, &divisor], vec![])
    });
    let none = graph.ints(&[0; 6]);
    let pads = graph.op("Concat", &[&none, &missing[0], &missing[1]], vec![int("axis", 0)]);
    graph.op("Pad", &[&x, &pads], vec![])
}

/// Of mask logits `[N, K + 1, M, M]`, the probabilities of each detection's own class, `[N, M, M]`.
fn own_masks(graph: &mut Graph, logits: &str, labels: &str, side: usize) -> Value {
    let one = graph.int(1);
    let channels = graph.op("Add", &[labels, &one], vec![]);
    let channels = graph.reshape(&channels, &[-1, 1, 1, 1]);
    let cells = graph.ints(&[1, 1, side as i64, side as i64]);
    let channels = graph.op("Expand", &[&channels, &cells], vec![]);
    let own = graph.op("GatherElements", &[logits, &channels], vec![int("axis", 1)]);
    let own = graph.reshape(&own, &[-1, side as i64, side as i64]);
    graph.op("Sigmoid", &[&own], vec![])
}
