//! What happens to boxes between the layers: anchors, decoding, suppression, pooling.

use super::graph::{Graph, Value, float, int, ints, text};
use super::{FLOAT, INT64};
use crate::model::rpn::AnchorGenerator;
use crate::model::{AnchorLayout, BoxBranchConfig, RoiPoolConfig, RoiRule, RpnConfig, SuppressionScale};
use crate::ops::DeltaClamp;
use crate::structures::BoxConvention;

/// Image pixels per cell of P2 to P6.
pub(super) const STRIDES: [usize; 5] = [4, 8, 16, 32, 64];

/// As in `ops::BoxCoder`: `ln(1000 / 16)`.
const MAX_LOG_SIZE_RATIO: f32 = 4.135_166_6;

/// As in `model::rpn` and `model::roi`: boxes with a shorter side are dropped, in pixels.
const MIN_PROPOSAL_SIDE_PX: f32 = 1e-3;
const MIN_DETECTION_SIDE_PX: f32 = 1e-2;

/// Width and height of the image in the graph, as floats.
pub(super) struct ImageSides {
    pub width: Value,
    pub height: Value,
}

/// Boxes `[N, 4]`, a column each.
struct Edges {
    x1: Value,
    y1: Value,
    x2: Value,
    y2: Value,
}

impl Edges {
    fn of(graph: &mut Graph, boxes: &str) -> Self {
        let mut edges = graph.op_many("Split", &[boxes], vec![int("axis", 1)], 4).into_iter();
        let mut next = || edges.next().expect("four columns");
        Self { x1: next(), y1: next(), x2: next(), y2: next() }
    }

    fn sizes(&self, graph: &mut Graph) -> [Value; 2] {
        [(&self.x2, &self.x1), (&self.y2, &self.y1)].map(|(high, low)| graph.op("Sub", &[high, low], vec![]))
    }
}

/// What of the conventions decides about a decoded box.
struct BoxRules {
    boxes: BoxConvention,
    clamp: DeltaClamp,
    weights: [f32; 4],
}

/// The boxes that lie `deltas` from `references`, within the image. `[N, 4]` all.
fn decode(graph: &mut Graph, [deltas, references]: [&str; 2], rules: &BoxRules, image: &ImageSides) -> Value {
    let reference = Edges::of(graph, references);
    let sizes = reference.sizes(graph);
    let weights = graph.floats(&rules.weights, &[1, 4]);
    let deltas = graph.op("Div", &[deltas, &weights], vec![]);
    let deltas = Edges::of(graph, &deltas);
    let [half, most] = [0.5, MAX_LOG_SIZE_RATIO].map(|value| graph.float(value));
    let mut low_and_high = Vec::new();
    let axes =
        [(&deltas.x1, &deltas.x2, &reference.x1, &image.width), (&deltas.y1, &deltas.y2, &reference.y1, &image.height)];
    for ((shift, log_ratio, low, limit), size) in axes.into_iter().zip(&sizes) {
        let half_size = graph.op("Mul", &[&half, size], vec![]);
        let centre = graph.op("Add", &[low, &half_size], vec![]);
        let shift = graph.op("Mul", &[shift, size], vec![]);
        let centre = graph.op("Add", &[&shift, &centre], vec![]);
        let mut log_ratio = graph.op("Min", &[log_ratio, &most], vec![]);
        if rules.clamp == DeltaClamp::Both {
            let least = graph.float(-MAX_LOG_SIZE_RATIO);
            log_ratio = graph.op("Max", &[&log_ratio, &least], vec![]);
        }
        let ratio = graph.op("Exp", &[&log_ratio], vec![]);
        let size = graph.op("Mul", &[&ratio, size], vec![]);
        let half_size = graph.op("Mul", &[&half, &size], vec![]);
        for (side, [lowest, highest]) in ["Sub", "Add"].into_iter().zip(clip_limits(graph, limit, rules.boxes)) {
            let edge = graph.op(side, &[&centre, &half_size], vec![]);
            let edge = graph.op("Max", &[&edge, &lowest], vec![]);
            low_and_high.push(graph.op("Min", &[&edge, &highest], vec![]));
        }
    }
    let [x1, x2, y1, y2] = &low_and_high[..] else { unreachable!("two edges on two axes") };
    graph.op("Concat", &[x1, y1, x2, y2], vec![int("axis", 1)])
}

/// Between which values the first and the second edge of a box lie, in an image of this length.
fn clip_limits(graph: &mut Graph, length: &str, convention: BoxConvention) -> [[Value; 2]; 2] {
    let zero = graph.float(0.0);
    match convention {
        BoxConvention::Continuous => [[zero.clone(), length.to_owned()], [zero, length.to_owned()]],
        // A box outside keeps a pixel of the border.
        BoxConvention::LegacyInclusive => {
            let one = graph.float(1.0);
            let last = graph.op("Sub", &[length, &one], vec![]);
            [[zero, last], [one, length.to_owned()]]
        }
    }
}

/// Boxes `[.., 4]` in the original image's pixels, as `BoxConvention::unscale`.
fn unscale(graph: &mut Graph, boxes: &str, convention: BoxConvention) -> Value {
    let scale = graph.op("Concat", &["scale", "scale"], vec![int("axis", 0)]);
    let last_pixel = match convention {
        BoxConvention::Continuous => 0.0,
        BoxConvention::LegacyInclusive => 1.0,
    };
    let beyond = graph.floats(&[0.0, 0.0, last_pixel, last_pixel], &[4]);
    let inclusive = graph.op("Sub", &[boxes, &beyond], vec![]);
    let unscaled = graph.op("Div", &[&inclusive, &scale], vec![]);
    graph.op("Add", &[&unscaled, &beyond], vec![])
}

/// Whether both sides of boxes `[N, 4]` have a least length, `[N]`.
fn is_large(graph: &mut Graph, boxes: &str, least: f32) -> Value {
    let [width, height] = Edges::of(graph, boxes).sizes(graph);
    let least = graph.float(least);
    let shorter = graph.op("Min", &[&width, &height], vec![]);
    let large = graph.op("GreaterOrEqual", &[&shorter, &least], vec![]);
    graph.reshape(&large, &[-1])
}

/// As `BoxConvention::is_large`.
fn least_side(pixels: f32, convention: BoxConvention) -> f32 {
    match convention {
        BoxConvention::Continuous => pixels,
        BoxConvention::LegacyInclusive => 0.0,
    }
}

/// The anchors of each level's map, `[N, 4]`, in a padded image of these sides.
pub(super) fn anchors(graph: &mut Graph, config: &RpnConfig, levels: &[Value], padded: &[Value; 2]) -> Vec<Value> {
    levels.iter().enumerate().map(|(index, level)| level_anchors(graph, config, (index, level), padded)).collect()
}

fn level_anchors(graph: &mut Graph, config: &RpnConfig, (index, level): (usize, &str), padded: &[Value; 2]) -> Value {
    let layout = config.conventions.anchors;
    let cell = AnchorGenerator::new(&config.anchors, layout).on_level(index, [1, 1], [STRIDES[index]; 2]);
    let edges: Vec<f32> = cell.iter().flat_map(|anchor| anchor.to_array()).collect();
    let mut at = graph.floats(&edges, &[1, 1, cell.len(), 4]);
    let (zero, one) = (graph.int(0), graph.int(1));
    for (axis, shape, mask) in [(2, [-1, 1, 1, 1], [0.0, 1.0, 0.0, 1.0]), (3, [1, -1, 1, 1], [1.0, 0.0, 1.0, 0.0])] {
        let side = graph.side(level, axis);
        let stride = match layout {
            AnchorLayout::CornersByQuotient => {
                let quotient = graph.op("Div", &[&padded[axis as usize - 2], &side], vec![]);
                graph.op("Cast", &[&quotient], vec![int("to", FLOAT)])
            }
            AnchorLayout::Corners | AnchorLayout::CornersUnrounded | AnchorLayout::InclusivePixels => {
                graph.float(STRIDES[index] as f32)
            }
        };
        let empty = graph.ints(&[]);
        let side = graph.op("Reshape", &[&side, &empty], vec![]);
        let cells = graph.op("Range", &[&zero, &side, &one], vec![]);
        let cells = graph.op("Cast", &[&cells], vec![int("to", FLOAT)]);
        let shifts = graph.op("Mul", &[&cells, &stride], vec![]);
        let shifts = graph.reshape(&shifts, &shape);
        let mask = graph.floats(&mask, &[1, 1, 1, 4]);
        let shifts = graph.op("Mul", &[&shifts, &mask], vec![]);
        at = graph.op("Add", &[&at, &shifts], vec![]);
    }
    graph.reshape(&at, &[-1, 4])
}

/// Boxes `[B, N, 4]` with scores `[B, 1, N]` that no better one of the same b overlaps: rows of b, 0, n.
fn suppress(graph: &mut Graph, [boxes, scores]: [&str; 2], limit: usize, [iou, score]: [f32; 2]) -> Value {
    let limit = graph.ints(&[limit as i64]);
    let [iou, score] = [iou, score].map(|value| graph.floats(&[value], &[1]));
    graph.op("NonMaxSuppression", &[boxes, scores, &limit, &iou, &score], vec![])
}

/// Proposals `[N, 4]` from what the RPN says about each level's anchors.
pub(super) fn proposals(
    graph: &mut Graph,
    config: &RpnConfig,
    anchors: &[Value],
    predictions: &[[Value; 2]],
    image: &ImageSides,
) -> Value {
    let limits = config.test_proposals;
    let rules = BoxRules { boxes: config.conventions.boxes, clamp: config.conventions.clamp, weights: [1.0; 4] };
    let (mut all_boxes, mut all_logits) = (Vec::new(), Vec::new());
    for (anchors, [logits, deltas]) in anchors.iter().zip(predictions) {
        let best = graph.best(logits, limits.pre_nms_top_n);
        let [logits, deltas, anchors] = [logits, deltas, anchors].map(|x| graph.rows(x, &best));
        let boxes = decode(graph, [&deltas, &anchors], &rules, image);
        let large = is_large(graph, &boxes, least_side(MIN_PROPOSAL_SIDE_PX, rules.boxes));
        let large = graph.positions(&large);
        let [logits, boxes] = [&logits, &boxes].map(|x| graph.rows(x, &large));
        let of_one = [graph.reshape(&boxes, &[1, -1, 4]), graph.reshape(&logits, &[1, 1, -1])];
        let limits = (limits.post_nms_top_n, [config.nms_threshold as f32, f32::MIN]);
        let kept = suppress(graph, [&of_one[0], &of_one[1]], limits.0, limits.1);
        let kept = graph.column(&kept, 2);
        all_logits.push(graph.rows(&logits, &kept));
        all_boxes.push(graph.rows(&boxes, &kept));
    }
    let [logits, boxes] = [all_logits, all_boxes].map(|parts| {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        graph.op("Concat", &parts, vec![int("axis", 0)])
    });
    let best = graph.best(&logits, limits.post_nms_top_n);
    graph.rows(&boxes, &best)
}

/// Detections: boxes `[N, 4]`, scores `[N]`, labels `[N]`.
pub(super) fn detections(
    graph: &mut Graph,
    config: &BoxBranchConfig,
    [class_logits, deltas, rois]: [&str; 3],
    num_classes: usize,
    image: &ImageSides,
) -> [Value; 3] {
    let classes = num_classes as i64;
    let scores = graph.op("Softmax", &[class_logits], vec![int("axis", 1)]);
    let objects = |graph: &mut Graph, x: &str, rows: i64| {
        let [start, end, axis] = [rows, i64::MAX, 1].map(|value| graph.ints(&[value]));
        graph.op("Slice", &[x, &start, &end, &axis], vec![])
    };
    let scores = objects(graph, &scores, 1);
    let deltas = objects(graph, deltas, 4);
    let deltas = graph.reshape(&deltas, &[-1, 4]);
    // A proposal of every class: [R, K, 4].
    let rois = graph.reshape(rois, &[-1, 1, 4]);
    let each = graph.ints(&[1, classes, 4]);
    let rois = graph.op("Expand", &[&rois, &each], vec![]);
    let rois = graph.reshape(&rois, &[-1, 4]);
    let conventions = config.conventions;
    let rules = BoxRules { boxes: conventions.boxes, clamp: conventions.clamp, weights: config.box_weights };
    let boxes = decode(graph, [&deltas, &rois], &rules, image);
    let large = is_large(graph, &boxes, least_side(MIN_DETECTION_SIDE_PX, rules.boxes));
    let large = graph.reshape(&large, &[-1, classes]);
    let zero = graph.float(0.0);
    let scores = graph.op("Where", &[&large, &scores, &zero], vec![]);
    // Classes stand where images would: each has its own boxes.
    let boxes = graph.reshape(&boxes, &[-1, classes, 4]);
    let boxes = graph.op("Transpose", &[&boxes], vec![ints("perm", &[1, 0, 2])]);
    let scores = graph.op("Transpose", &[&scores], vec![ints("perm", &[1, 0])]);
    let of_classes = graph.reshape(&scores, &[classes, 1, -1]);
    let thresholds = [config.nms_threshold as f32, config.score_threshold];
    let compared = match conventions.suppression {
        SuppressionScale::Network => boxes.clone(),
        SuppressionScale::Original => unscale(graph, &boxes, conventions.boxes),
    };
    let kept = suppress(graph, [&compared, &of_classes], config.max_detections, thresholds);
    let [labels, indices] = [0, 2].map(|column| graph.column(&kept, column));
    let num_rois = graph.side(&scores, 1);
    let first = graph.op("Mul", &[&labels, &num_rois], vec![]);
    let places = graph.op("Add", &[&first, &indices], vec![]);
    let [scores, boxes] = [graph.reshape(&scores, &[-1]), graph.reshape(&boxes, &[-1, 4])];
    let [scores, boxes] = [scores, boxes].map(|x| graph.rows(&x, &places));
    let best = graph.best(&scores, config.max_detections);
    [boxes, scores, labels].map(|x| graph.rows(&x, &best))
}

/// Features `[N, C, side, side]` under rois `[N, 4]`, each from the level of P2 to P5 that suits its size.
pub(super) fn pool(graph: &mut Graph, levels: &[Value], rois: &str, config: &RoiPoolConfig) -> Value {
    let level_of = level_of(graph, rois, config.rule);
    let (mut features, mut order) = (Vec::new(), Vec::new());
    for (index, level) in levels.iter().take(4).enumerate() {
        let number = graph.int(index as i64);
        let own = graph.op("Equal", &[&level_of, &number], vec![]);
        let own = graph.positions(&own);
        let mut own_rois = graph.rows(rois, &own);
        let is_shifted = !config.aligned && config.rule == RoiRule::Released;
        if is_shifted {
            // With cell centres at whole coordinates ONNX gives regions a least size of one cell. These have none: so the other kind, which subtracts half a cell.
            let half_cell = graph.float(0.5 * STRIDES[index] as f32);
            own_rois = graph.op("Add", &[&own_rois, &half_cell], vec![]);
        }
        let first_image = graph.int(0);
        let images = graph.op("Mul", &[&own, &first_image], vec![]);
        let attributes = vec![
            text("mode", "avg"),
            text(
                "coordinate_transformation_mode",
                if config.aligned || is_shifted { "half_pixel" } else { "output_half_pixel" },
            ),
            int("output_height", config.side as i64),
            int("output_width", config.side as i64),
            int("sampling_ratio", config.sampling_ratio as i64),
            float("spatial_scale", 1.0 / STRIDES[index] as f32),
        ];
        features.push(graph.op("RoiAlign", &[level, &own_rois, &images], attributes));
        order.push(own);
    }
    let [features, order] = [features, order].map(|parts| {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        graph.op("Concat", &parts, vec![int("axis", 0)])
    });
    // Where each roi went: the positions that would sort the order.
    let count = graph.side(&order, 0);
    let positions = graph.op_many("TopK", &[&order, &count], vec![int("axis", 0), int("largest", 0)], 2).remove(1);
    graph.rows(&features, &positions)
}

/// The level of a roi, 0 to 3: how many of the sides at which it grows are reached. `RoiRule` has the formulas.
fn level_of(graph: &mut Graph, rois: &str, rule: RoiRule) -> Value {
    let [width, height] = Edges::of(graph, rois).sizes(graph);
    let area = graph.op("Mul", &[&width, &height], vec![]);
    let side = graph.op("Sqrt", &[&area], vec![]);
    let grows: Vec<f32> = [1.0_f64, 2.0, 3.0]
        .iter()
        .map(|level| match rule {
            RoiRule::Torchvision => (224.0 * (level - 2.0 - 1e-6).exp2()) as f32,
            RoiRule::Released => (56.0 * (level.exp2() - 1e-6)) as f32,
        })
        .collect();
    let grows = graph.floats(&grows, &[1, 3]);
    let reached = graph.op("GreaterOrEqual", &[&side, &grows], vec![]);
    let reached = graph.op("Cast", &[&reached], vec![int("to", INT64)]);
    let axis = graph.ints(&[1]);
    graph.op("ReduceSum", &[&reached, &axis], vec![int("keepdims", 0)])
}
