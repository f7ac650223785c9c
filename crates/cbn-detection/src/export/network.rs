//! The layers: backbone, pyramid, RPN, heads.

use std::collections::BTreeMap;

use burn::module::Module;
use cbn::norm::GroupNorm;
use cbn::{ConvGeometry, ConvNorm};

use super::graph::{Graph, Value, float, int, ints, text};
use crate::model::Detector;
use crate::model::backbone::ResidualBlock;
use crate::model::weights::{WeightLayout, export_detector};

/// A detector without norms but group norm, and its weights in PyTorch's order under torchvision's names.
pub(super) struct Network {
    pub detector: Detector,
    weights: BTreeMap<String, (Vec<f32>, Vec<usize>)>,
}

impl Network {
    /// Folds every norm that can be into its convolution.
    pub fn new(detector: &Detector) -> Self {
        let detector = fused(detector.valid());
        let tensors = export_detector(&detector, WeightLayout::Torchvision);
        let weights =
            tensors.iter().map(|(name, data)| (name.to_owned(), (data.iter::<f32>().collect(), data.shape().to_vec())));
        Self { weights: weights.collect(), detector }
    }

    /// Whether there is a layer of this name.
    fn has(&self, layer: &str) -> bool {
        self.weights.contains_key(&format!("{layer}.weight"))
    }

    /// Weight and bias of a layer, as constants of the graph; no bias before group norm.
    fn constants(&self, graph: &mut Graph, layer: &str) -> Vec<Value> {
        let tensors = ["weight", "bias"].map(|tensor| self.weights.get(&format!("{layer}.{tensor}")));
        tensors.into_iter().flatten().map(|(values, shape)| graph.floats(values, shape)).collect()
    }

    fn conv(&self, graph: &mut Graph, x: &str, layer: &str, geometry: &ConvGeometry) -> Value {
        let constants = self.constants(graph, layer);
        let [rows, columns] = geometry.padding.map(|side| side as i64);
        let attributes = vec![
            ints("strides", &geometry.stride.map(|side| side as i64)),
            ints("dilations", &geometry.dilation.map(|side| side as i64)),
            ints("pads", &[rows, columns, rows, columns]),
            int("group", geometry.groups as i64),
        ];
        let inputs: Vec<&str> = std::iter::once(x).chain(constants.iter().map(String::as_str)).collect();
        graph.op("Conv", &inputs, attributes)
    }

    /// A convolution and its norm, which is group norm if it is still there.
    fn conv_norm(&self, graph: &mut Graph, x: &str, layer: &str, conv: &ConvNorm) -> Value {
        let y = self.conv(graph, x, layer, &conv.geometry);
        match conv.norm.as_group() {
            Some(norm) => group_norm(graph, &y, norm),
            None => y,
        }
    }

    fn conv_norm_relu(&self, graph: &mut Graph, x: &str, layer: &str, conv: &ConvNorm) -> Value {
        let y = self.conv_norm(graph, x, layer, conv);
        graph.op("Relu", &[&y], vec![])
    }

    /// A fully connected layer.
    fn linear(&self, graph: &mut Graph, x: &str, layer: &str) -> Value {
        let constants = self.constants(graph, layer);
        graph.op("Gemm", &[x, &constants[0], &constants[1]], vec![int("transB", 1)])
    }

    /// C2 to C5 of pixels `[1, 3, H, W]`.
    pub fn backbone(&self, graph: &mut Graph, pixels: &str) -> Vec<Value> {
        let backbone = &self.detector.backbone;
        let x = self.conv_norm_relu(graph, pixels, "backbone.body.conv1", &backbone.stem);
        let pool = vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])];
        let mut x = graph.op("MaxPool", &[&x], pool);
        let mut levels = Vec::new();
        for (stage, blocks) in backbone.stages.iter().enumerate() {
            for (number, block) in blocks.iter().enumerate() {
                x = self.block(graph, &x, &format!("backbone.body.layer{}.{number}", stage + 1), block);
            }
            levels.push(x.clone());
        }
        levels
    }

    fn block(&self, graph: &mut Graph, x: &str, name: &str, block: &ResidualBlock) -> Value {
        let shortcut = match &block.shortcut {
            Some(conv) => self.conv_norm(graph, x, &format!("{name}.downsample.0"), conv),
            None => x.to_owned(),
        };
        let mut y = x.to_owned();
        for (index, conv) in block.convs.iter().enumerate() {
            if index > 0 {
                y = graph.op("Relu", &[&y], vec![]);
            }
            y = self.conv_norm(graph, &y, &format!("{name}.conv{}", index + 1), conv);
        }
        let sum = graph.op("Add", &[&y, &shortcut], vec![]);
        graph.op("Relu", &[&sum], vec![])
    }

    /// P2 to P6.
    pub fn neck(&self, graph: &mut Graph, levels: &[Value]) -> Vec<Value> {
        let neck = &self.detector.neck;
        let mut outputs = Vec::new();
        let mut coarser: Option<Value> = None;
        for (index, level) in levels.iter().enumerate().rev() {
            let layer = format!("backbone.fpn.inner_blocks.{index}.0");
            let mut merged = self.conv_norm(graph, level, &layer, &neck.laterals[index]);
            if let Some(coarse) = &coarser {
                let coarse = enlarged(graph, coarse, &merged);
                merged = graph.op("Add", &[&merged, &coarse], vec![]);
            }
            let layer = format!("backbone.fpn.layer_blocks.{index}.0");
            outputs.push(self.conv_norm(graph, &merged, &layer, &neck.outputs[index]));
            coarser = Some(merged);
        }
        outputs.reverse();
        let coarsest = outputs.last().expect("a backbone has levels").clone();
        let every_second = vec![ints("kernel_shape", &[1, 1]), ints("strides", &[2, 2])];
        outputs.push(graph.op("MaxPool", &[&coarsest], every_second));
        outputs
    }

    /// Logits `[N]` and deltas `[N, 4]` of a level's anchors: rows, then columns, then the anchors of a position.
    pub fn rpn(&self, graph: &mut Graph, level: &str) -> [Value; 2] {
        let head = &self.detector.rpn.head;
        let mut hidden = level.to_owned();
        for (index, conv) in head.convs.iter().enumerate() {
            hidden = self.conv(graph, &hidden, &format!("rpn.head.conv.{index}.0"), &conv.geometry);
            hidden = graph.op("Relu", &[&hidden], vec![]);
        }
        [("rpn.head.cls_logits", &head.objectness, &[-1][..]), ("rpn.head.bbox_pred", &head.deltas, &[-1, 4])].map(
            |(layer, conv, shape)| {
                let y = self.conv(graph, &hidden, layer, &conv.geometry);
                let y = graph.op("Transpose", &[&y], vec![ints("perm", &[0, 2, 3, 1])]);
                graph.reshape(&y, shape)
            },
        )
    }

    /// Class logits `[N, K + 1]`, background first, and deltas `[N, 4 (K + 1)]` of pooled features.
    pub fn box_head(&self, graph: &mut Graph, pooled: Value) -> [Value; 2] {
        let mut x = pooled;
        for (index, conv) in self.detector.roi.boxes.head.convs.iter().enumerate() {
            x = self.conv_norm_relu(graph, &x, &format!("roi_heads.box_head.{index}.0"), conv);
        }
        x = graph.op("Flatten", &[&x], vec![int("axis", 1)]);
        for layer in ["fc6", "5", "fc7"].map(|layer| format!("roi_heads.box_head.{layer}")) {
            if self.has(&layer) {
                let y = self.linear(graph, &x, &layer);
                x = graph.op("Relu", &[&y], vec![]);
            }
        }
        ["cls_score", "bbox_pred"].map(|layer| self.linear(graph, &x, &format!("roi_heads.box_predictor.{layer}")))
    }

    /// Mask logits `[N, K + 1, M, M]` of pooled features.
    pub fn mask_head(&self, graph: &mut Graph, pooled: Value) -> Value {
        let mask = self.detector.roi.mask.as_ref().expect("asked for where there is a mask branch");
        let mut x = pooled;
        for (index, conv) in mask.head.convs.iter().enumerate() {
            x = self.conv_norm_relu(graph, &x, &format!("roi_heads.mask_head.{index}.0"), conv);
        }
        let constants = self.constants(graph, "roi_heads.mask_predictor.conv5_mask");
        let twice = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
        let y = graph.op("ConvTranspose", &[&x, &constants[0], &constants[1]], twice);
        let y = graph.op("Relu", &[&y], vec![]);
        self.conv(graph, &y, "roi_heads.mask_predictor.mask_fcn_logits", &mask.head.logits.geometry)
    }
}

/// A map at the size of another, its cells repeated.
fn enlarged(graph: &mut Graph, coarse: &str, like: &str) -> Value {
    let sizes: Vec<Value> =
        [(coarse, 0), (coarse, 1), (like, 2), (like, 3)].map(|(x, axis)| graph.side(x, axis)).into();
    let sizes: Vec<&str> = sizes.iter().map(String::as_str).collect();
    let sizes = graph.op("Concat", &sizes, vec![int("axis", 0)]);
    let nearest =
        ["mode", "coordinate_transformation_mode", "nearest_mode"].into_iter().zip(["nearest", "asymmetric", "floor"]);
    graph.op("Resize", &[coarse, "", "", &sizes], nearest.map(|(name, value)| text(name, value)).collect())
}

/// Group norm of `[N, C, H, W]`: instance norm of the groups as if they were channels (ONNX has an operator of its own from opset 21 on).
fn group_norm(graph: &mut Graph, y: &str, norm: &GroupNorm) -> Value {
    let channels = norm.gamma.dims()[0];
    let [images, height, width] = [0, 2, 3].map(|axis| graph.side(y, axis));
    // Written out: a map of no regions has no side that could be inferred from the others.
    let per_group = graph.ints(&[(channels / norm.groups) as i64]);
    let cells = graph.op("Mul", &[&height, &width], vec![]);
    let cells = graph.op("Mul", &[&cells, &per_group], vec![]);
    let groups = graph.ints(&[norm.groups as i64]);
    let grouped = graph.op("Concat", &[&images, &groups, &cells], vec![int("axis", 0)]);
    let grouped = graph.op("Reshape", &[y, &grouped], vec![]);
    let [ones, zeros] = [1.0, 0.0].map(|value| graph.floats(&vec![value; norm.groups], &[norm.groups]));
    let epsilon = vec![float("epsilon", norm.epsilon as f32)];
    let normalised = graph.op("InstanceNormalization", &[&grouped, &ones, &zeros], epsilon);
    let shape = graph.op("Shape", &[y], vec![]);
    let normalised = graph.op("Reshape", &[&normalised, &shape], vec![]);
    let [gamma, beta] = [&norm.gamma, &norm.beta].map(|of_channels| {
        let values: Vec<f32> = of_channels.val().into_data().iter().collect();
        graph.floats(&values, &[1, channels, 1, 1])
    });
    let scaled = graph.op("Mul", &[&normalised, &gamma], vec![]);
    graph.op("Add", &[&scaled, &beta], vec![])
}

/// The detector with each norm folded into its convolution, if it does the same to every image.
fn fused(detector: Detector) -> Detector {
    let Detector { mut backbone, mut neck, rpn, mut roi } = detector;
    let fuse_all = |convs: &mut Vec<ConvNorm>| {
        *convs = std::mem::take(convs).into_iter().map(ConvNorm::fuse).collect();
    };
    backbone.stem = backbone.stem.fuse();
    for block in backbone.stages.iter_mut().flatten() {
        fuse_all(&mut block.convs);
        block.shortcut = block.shortcut.take().map(ConvNorm::fuse);
    }
    fuse_all(&mut neck.laterals);
    fuse_all(&mut neck.outputs);
    fuse_all(&mut roi.boxes.head.convs);
    if let Some(mask) = &mut roi.mask {
        fuse_all(&mut mask.head.convs);
    }
    Detector { backbone, neck, rpn, roi }
}
