use std::fmt;

use cbn::Norm;

use super::tables::{DETECTRON2, MMDET, ROI_HEAD, Row, TORCHVISION};

/// Who named the tensors of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// This library: module paths, as in its checkpoints.
    Cbn,
    /// torchvision's `fasterrcnn_resnet50_fpn`, `maskrcnn_resnet50_fpn`, their `_v2`, and its classifiers `resnet18` to `resnet101`.
    Torchvision,
    /// mmdetection before 2.0, and the released CBN code, which is a fork of 0.6: `bbox_head.fc_cls`, class 0 is the background.
    Mmdet,
    /// mmdetection 2: `roi_head.bbox_head.fc_cls`, the last class is the background.
    Mmdet2,
    /// detectron2: `roi_heads.box_predictor.cls_score`, the last class is the background.
    Detectron2,
}

/// Every layout.
const ALL: [WeightLayout; 5] =
    [WeightLayout::Cbn, WeightLayout::Torchvision, WeightLayout::Mmdet, WeightLayout::Mmdet2, WeightLayout::Detectron2];

impl fmt::Display for WeightLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cbn => "cbn",
            Self::Torchvision => "torchvision",
            Self::Mmdet => "mmdet",
            Self::Mmdet2 => "mmdet2",
            Self::Detectron2 => "detectron2",
        })
    }
}

impl WeightLayout {
    /// The layout whose marks the names bear; the first mark found decides, since no file bears two.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        let bears = |layout: &Self| names.clone().any(|name| layout.marks().iter().any(|mark| name.starts_with(mark)));
        ALL.into_iter().find(bears)
    }

    /// Beginnings of names that only this layout has. Of a bare backbone, the first convolution is enough.
    fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Cbn => &["backbone.stem.weight", "stem.weight"],
            Self::Torchvision => &["backbone.body.", "conv1.weight"],
            Self::Mmdet => &["bbox_head."],
            Self::Mmdet2 => &[ROI_HEAD],
            Self::Detectron2 => &["backbone.bottom_up.", "stem.conv1.weight"],
        }
    }

    /// What stands before the names of a backbone that is part of a detector.
    pub(super) fn backbone_prefix(self) -> &'static str {
        match self {
            Self::Torchvision => "backbone.body.",
            Self::Detectron2 => "backbone.bottom_up.",
            Self::Cbn | Self::Mmdet | Self::Mmdet2 => "backbone.",
        }
    }

    /// Whether a tensor is no weight, but what the other library computes from its configuration, or the state of a training.
    pub(super) fn is_constant(self, name: &str) -> bool {
        match self {
            // The last two are Caffe2's: a bias that detectron2 does not read either, and velocities.
            Self::Detectron2 => {
                let starts = ["pixel_mean", "pixel_std", "proposal_generator.anchor_generator."];
                starts.iter().any(|start| name.starts_with(start)) || name == "conv1_b" || name.ends_with("_momentum")
            }
            Self::Cbn => name.starts_with("optimizer.velocity.") || name.contains(".history."),
            Self::Torchvision | Self::Mmdet | Self::Mmdet2 => false,
        }
    }

    fn table(self) -> &'static [Row] {
        match self {
            Self::Cbn => &[],
            Self::Torchvision => TORCHVISION,
            Self::Mmdet | Self::Mmdet2 => MMDET,
            Self::Detectron2 => DETECTRON2,
        }
    }

    /// This layout's names of the tensor at a module path of a [`Detector`](crate::model::Detector), the newest name first.
    /// Empty for what no other library has: histories and counters.
    pub(super) fn names(self, path: &[String]) -> Vec<String> {
        let Some(place) = Place::of(path) else { return Vec::new() };
        if self == Self::Cbn {
            return place.own_names(path);
        }
        let Some((row, indices)) = self.table().iter().find_map(|row| Some((row, row.indices(&place.layer)?))) else {
            return Vec::new();
        };
        let templates = if place.norm.is_some() { row.norm } else { row.layer };
        let head = if self == Self::Mmdet2 && place.layer[0] == "roi" { ROI_HEAD } else { "" };
        let names = templates.iter().map(|template| format!("{head}{}.{}", fill(template, &indices), place.tensor));
        let mut names: Vec<String> = names.collect();
        if place.norm == Some("Group") {
            // mmdetection names a norm after its kind; the name of group norm stands last.
            names.reverse();
        }
        names
    }
}

/// A module path, taken apart.
struct Place<'a> {
    /// Down to the convolution or linear layer.
    layer: Vec<&'a str>,
    /// The kind of the norm, for the tensors of one.
    norm: Option<&'a str>,
    /// In PyTorch's words.
    tensor: &'static str,
}

impl<'a> Place<'a> {
    fn of(path: &'a [String]) -> Option<Self> {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        let (&leaf, owner) = parts.split_last()?;
        let norm_at = owner.iter().position(|&part| part == "norm");
        // A history lies deeper.
        if norm_at.is_some_and(|at| owner.len() != at + 2) {
            return None;
        }
        let tensor = match (norm_at, leaf) {
            (None, "weight") | (Some(_), "gamma") => "weight",
            (None, "bias") | (Some(_), "beta") => "bias",
            (Some(_), "running_mean") => "running_mean",
            (Some(_), "running_var") => "running_var",
            _ => return None,
        };
        let layer = owner[..norm_at.unwrap_or(owner.len())].to_vec();
        Some(Self { layer, norm: norm_at.map(|at| owner[at + 1]), tensor })
    }

    /// The path itself, and the same under the other norms: a trained batch norm starts a cross-iteration norm.
    fn own_names(&self, path: &[String]) -> Vec<String> {
        let own = path.join(".");
        let Some(norm) = self.norm else { return vec![own] };
        let others = Norm::KINDS.iter().filter(|&&other| other != norm);
        let others = others.map(|other| own.replacen(&format!(".norm.{norm}."), &format!(".norm.{other}."), 1));
        std::iter::once(own.clone()).chain(others).collect()
    }
}

impl Row {
    /// The numbers at the places of the stars, if the layer is one of this row.
    fn indices(&self, layer: &[&str]) -> Option<Vec<usize>> {
        let pattern: Vec<&str> = self.ours.split('.').collect();
        if pattern.len() != layer.len() {
            return None;
        }
        let mut indices = Vec::new();
        for (&expected, &found) in pattern.iter().zip(layer) {
            match expected {
                "*" => indices.push(found.parse().ok()?),
                _ if expected == found => {}
                _ => return None,
            }
        }
        Some(indices)
    }
}

/// Puts the numbers into the places `{0}`, or `{0+1}` where the other library counts from one, `{0+2}` from two.
fn fill(template: &str, indices: &[usize]) -> String {
    let mut name = template.to_owned();
    for (place, index) in indices.iter().enumerate() {
        name = name.replace(&format!("{{{place}}}"), &index.to_string());
        for offset in 1..=2 {
            name = name.replace(&format!("{{{place}+{offset}}}"), &(index + offset).to_string());
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(layout: WeightLayout, path: &str) -> Vec<String> {
        layout.names(&path.split('.').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn layers_have_their_current_and_their_former_names() {
        let names = |path| names(WeightLayout::Torchvision, path);
        assert_eq!(names("backbone.stem.norm.Frozen.gamma"), ["backbone.body.bn1.weight"]);
        assert_eq!(names("backbone.stages.2.1.convs.0.weight"), ["backbone.body.layer3.1.conv1.weight"]);
        assert_eq!(
            names("backbone.stages.1.0.shortcut.norm.Batch.running_var"),
            ["backbone.body.layer2.0.downsample.1.running_var"]
        );
        assert_eq!(
            names("neck.laterals.3.bias"),
            ["backbone.fpn.inner_blocks.3.0.bias", "backbone.fpn.inner_blocks.3.bias"]
        );
        assert_eq!(
            names("roi.mask.head.convs.1.weight"),
            ["roi_heads.mask_head.1.0.weight", "roi_heads.mask_head.1.weight", "roi_heads.mask_head.mask_fcn2.weight"]
        );
        assert_eq!(names("rpn.head.convs.0.bias"), ["rpn.head.conv.0.0.bias", "rpn.head.conv.bias"]);
        assert_eq!(names("rpn.head.convs.1.bias"), ["rpn.head.conv.1.0.bias"]);
        assert!(names("neck.outputs.0.norm.CrossIteration.history.mean").is_empty());
    }

    #[test]
    fn the_others_count_and_call_norms_in_their_own_way() {
        assert_eq!(
            names(WeightLayout::Mmdet, "neck.outputs.2.norm.CrossIteration.gamma")[0],
            "neck.fpn_convs.2.bn.weight"
        );
        assert_eq!(names(WeightLayout::Mmdet, "neck.outputs.2.norm.Group.gamma")[0], "neck.fpn_convs.2.gn.weight");
        assert_eq!(names(WeightLayout::Mmdet2, "roi.boxes.head.class_logits.bias"), ["roi_head.bbox_head.fc_cls.bias"]);
        assert_eq!(
            names(WeightLayout::Detectron2, "backbone.stages.3.2.convs.1.norm.Frozen.running_mean"),
            ["backbone.bottom_up.res5.2.conv2.norm.running_mean"]
        );
        assert_eq!(names(WeightLayout::Detectron2, "neck.outputs.0.bias"), ["backbone.fpn_output2.bias"]);
        assert_eq!(
            names(WeightLayout::Cbn, "neck.outputs.0.norm.Batch.beta")[..2],
            ["neck.outputs.0.norm.Batch.beta", "neck.outputs.0.norm.Frozen.beta"]
        );
    }

    #[test]
    fn marks_tell_the_layouts_apart() {
        for (name, layout) in [
            ("backbone.stem.weight", Some(WeightLayout::Cbn)),
            ("conv1.weight", Some(WeightLayout::Torchvision)),
            ("backbone.body.conv1.weight", Some(WeightLayout::Torchvision)),
            ("bbox_head.fc_cls.bias", Some(WeightLayout::Mmdet)),
            ("roi_head.bbox_head.fc_cls.bias", Some(WeightLayout::Mmdet2)),
            ("backbone.bottom_up.stem.conv1.weight", Some(WeightLayout::Detectron2)),
            ("encoder.weight", None),
        ] {
            assert_eq!(WeightLayout::of(std::iter::once(name)), layout, "{name}");
        }
    }
}
