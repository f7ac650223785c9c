//! What other libraries call our layers, a row a layer.

/// A layer, and the norm after it.
pub(super) struct Row {
    /// Its module path; `*` stands for the index of a list.
    pub ours: &'static str,
    /// Its names in the other library, the newest first. `{0}` is the index at the first star, `{0+1}` that plus one.
    pub layer: &'static [&'static str],
    /// The names of its norm, the newest first; none where the other library has no norm there.
    pub norm: &'static [&'static str],
}

const fn row(ours: &'static str, layer: &'static [&'static str], norm: &'static [&'static str]) -> Row {
    Row { ours, layer, norm }
}

/// torchvision 0.26. Files of 0.12 and older have bare convolutions where there are blocks (`.0`) now.
pub(super) const TORCHVISION: &[Row] = &[
    row("backbone.stem", &["backbone.body.conv1"], &["backbone.body.bn1"]),
    row(
        "backbone.stages.*.*.convs.*",
        &["backbone.body.layer{0+1}.{1}.conv{2+1}"],
        &["backbone.body.layer{0+1}.{1}.bn{2+1}"],
    ),
    row(
        "backbone.stages.*.*.shortcut",
        &["backbone.body.layer{0+1}.{1}.downsample.0"],
        &["backbone.body.layer{0+1}.{1}.downsample.1"],
    ),
    row(
        "neck.laterals.*",
        &["backbone.fpn.inner_blocks.{0}.0", "backbone.fpn.inner_blocks.{0}"],
        &["backbone.fpn.inner_blocks.{0}.1"],
    ),
    row(
        "neck.outputs.*",
        &["backbone.fpn.layer_blocks.{0}.0", "backbone.fpn.layer_blocks.{0}"],
        &["backbone.fpn.layer_blocks.{0}.1"],
    ),
    row("rpn.head.convs.0", &["rpn.head.conv.0.0", "rpn.head.conv"], &[]),
    row("rpn.head.convs.*", &["rpn.head.conv.{0}.0"], &[]),
    row("rpn.head.objectness", &["rpn.head.cls_logits"], &[]),
    row("rpn.head.deltas", &["rpn.head.bbox_pred"], &[]),
    row("roi.boxes.head.convs.*", &["roi_heads.box_head.{0}.0"], &["roi_heads.box_head.{0}.1"]),
    // The first layer of `TwoMLPHead`, or the one of `FastRCNNConvFCHead` behind four convolutions and `Flatten`.
    row("roi.boxes.head.fcs.0", &["roi_heads.box_head.fc6", "roi_heads.box_head.5"], &[]),
    row("roi.boxes.head.fcs.1", &["roi_heads.box_head.fc7"], &[]),
    row("roi.boxes.head.class_logits", &["roi_heads.box_predictor.cls_score"], &[]),
    row("roi.boxes.head.deltas", &["roi_heads.box_predictor.bbox_pred"], &[]),
    row(
        "roi.mask.head.convs.*",
        &["roi_heads.mask_head.{0}.0", "roi_heads.mask_head.{0}", "roi_heads.mask_head.mask_fcn{0+1}"],
        &["roi_heads.mask_head.{0}.1"],
    ),
    row("roi.mask.head.deconv", &["roi_heads.mask_predictor.conv5_mask"], &[]),
    row("roi.mask.head.logits", &["roi_heads.mask_predictor.mask_fcn_logits"], &[]),
];

/// mmdetection 0.6 and the released CBN code, whose norm is called `bn` as batch norm is; group norm is `gn`.
/// mmdetection 2 has the heads in a [`ROI_HEAD`].
pub(super) const MMDET: &[Row] = &[
    row("backbone.stem", &["backbone.conv1"], &["backbone.bn1", "backbone.gn1"]),
    row(
        "backbone.stages.*.*.convs.*",
        &["backbone.layer{0+1}.{1}.conv{2+1}"],
        &["backbone.layer{0+1}.{1}.bn{2+1}", "backbone.layer{0+1}.{1}.gn{2+1}"],
    ),
    row(
        "backbone.stages.*.*.shortcut",
        &["backbone.layer{0+1}.{1}.downsample.0"],
        &["backbone.layer{0+1}.{1}.downsample.1"],
    ),
    row(
        "neck.laterals.*",
        &["neck.lateral_convs.{0}.conv"],
        &["neck.lateral_convs.{0}.bn", "neck.lateral_convs.{0}.gn"],
    ),
    row("neck.outputs.*", &["neck.fpn_convs.{0}.conv"], &["neck.fpn_convs.{0}.bn", "neck.fpn_convs.{0}.gn"]),
    row("rpn.head.convs.0", &["rpn_head.rpn_conv", "rpn_head.rpn_conv.0.conv"], &[]),
    row("rpn.head.convs.*", &["rpn_head.rpn_conv.{0}.conv"], &[]),
    row("rpn.head.objectness", &["rpn_head.rpn_cls"], &[]),
    row("rpn.head.deltas", &["rpn_head.rpn_reg"], &[]),
    row(
        "roi.boxes.head.convs.*",
        &["bbox_head.shared_convs.{0}.conv"],
        &["bbox_head.shared_convs.{0}.bn", "bbox_head.shared_convs.{0}.gn"],
    ),
    row("roi.boxes.head.fcs.*", &["bbox_head.shared_fcs.{0}"], &[]),
    row("roi.boxes.head.class_logits", &["bbox_head.fc_cls"], &[]),
    row("roi.boxes.head.deltas", &["bbox_head.fc_reg"], &[]),
    row("roi.mask.head.convs.*", &["mask_head.convs.{0}.conv"], &["mask_head.convs.{0}.bn", "mask_head.convs.{0}.gn"]),
    row("roi.mask.head.deconv", &["mask_head.upsample"], &[]),
    row("roi.mask.head.logits", &["mask_head.conv_logits"], &[]),
];

/// Stands before the names of both heads in mmdetection 2.
pub(super) const ROI_HEAD: &str = "roi_head.";

/// detectron2 0.6: every norm is called `norm`, stages count from res2, pyramid levels from 2.
pub(super) const DETECTRON2: &[Row] = &[
    row("backbone.stem", &["backbone.bottom_up.stem.conv1"], &["backbone.bottom_up.stem.conv1.norm"]),
    row(
        "backbone.stages.*.*.convs.*",
        &["backbone.bottom_up.res{0+2}.{1}.conv{2+1}"],
        &["backbone.bottom_up.res{0+2}.{1}.conv{2+1}.norm"],
    ),
    row(
        "backbone.stages.*.*.shortcut",
        &["backbone.bottom_up.res{0+2}.{1}.shortcut"],
        &["backbone.bottom_up.res{0+2}.{1}.shortcut.norm"],
    ),
    row("neck.laterals.*", &["backbone.fpn_lateral{0+2}"], &["backbone.fpn_lateral{0+2}.norm"]),
    row("neck.outputs.*", &["backbone.fpn_output{0+2}"], &["backbone.fpn_output{0+2}.norm"]),
    row("rpn.head.convs.0", &["proposal_generator.rpn_head.conv", "proposal_generator.rpn_head.conv.conv0"], &[]),
    row("rpn.head.convs.*", &["proposal_generator.rpn_head.conv.conv{0}"], &[]),
    row("rpn.head.objectness", &["proposal_generator.rpn_head.objectness_logits"], &[]),
    row("rpn.head.deltas", &["proposal_generator.rpn_head.anchor_deltas"], &[]),
    row("roi.boxes.head.convs.*", &["roi_heads.box_head.conv{0+1}"], &["roi_heads.box_head.conv{0+1}.norm"]),
    row("roi.boxes.head.fcs.*", &["roi_heads.box_head.fc{0+1}"], &[]),
    row("roi.boxes.head.class_logits", &["roi_heads.box_predictor.cls_score"], &[]),
    row("roi.boxes.head.deltas", &["roi_heads.box_predictor.bbox_pred"], &[]),
    row("roi.mask.head.convs.*", &["roi_heads.mask_head.mask_fcn{0+1}"], &["roi_heads.mask_head.mask_fcn{0+1}.norm"]),
    row("roi.mask.head.deconv", &["roi_heads.mask_head.deconv"], &[]),
    row("roi.mask.head.logits", &["roi_heads.mask_head.predictor"], &[]),
];
