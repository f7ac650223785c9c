//! What torchvision 0.26 calls our layers.

/// torchvision's names of the tensor at a module path of a [`Detector`](crate::model::Detector), the newest name first:
/// published files still have the names of torchvision 0.12 and older. Empty for what torchvision does not have.
pub(super) fn detector_names(path: &[String]) -> Vec<String> {
    let Some(place) = Place::of(path) else { return Vec::new() };
    place.detector_layers().into_iter().map(|layer| format!("{layer}.{}", place.tensor)).collect()
}

/// The same of a [`ResNet`](crate::model::backbone::ResNet), in files of the network alone and of a detector.
pub(super) fn backbone_names(path: &[String]) -> Vec<String> {
    let Some(place) = Place::of(path) else { return Vec::new() };
    let layer = resnet_layer(&place.layer, place.is_norm);
    layer.map_or_else(Vec::new, |layer| {
        ["", BACKBONE_PREFIX].iter().map(|prefix| format!("{prefix}{layer}.{}", place.tensor)).collect()
    })
}

/// Whether a name belongs to the convolutions and norms of a ResNet, and not to a classifier or to the rest of a detector.
pub(super) fn is_backbone_name(name: &str) -> bool {
    let name = name.strip_prefix(BACKBONE_PREFIX).unwrap_or(name);
    ["conv1.", "bn1.", "layer"].iter().any(|start| name.starts_with(start))
}

const BACKBONE_PREFIX: &str = "backbone.body.";

/// A module path, taken apart.
struct Place<'a> {
    /// Down to the convolution or linear layer.
    layer: Vec<&'a str>,
    /// Whether the tensor is of the norm after that layer.
    is_norm: bool,
    /// In PyTorch's words.
    tensor: &'static str,
}

impl<'a> Place<'a> {
    fn of(path: &'a [String]) -> Option<Self> {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        let (&leaf, owner) = parts.split_last()?;
        let norm_at = owner.iter().position(|&part| part == "norm");
        let tensor = match (norm_at, leaf) {
            (None, "weight") | (Some(_), "gamma") => "weight",
            (None, "bias") | (Some(_), "beta") => "bias",
            (Some(_), "running_mean") => "running_mean",
            (Some(_), "running_var") => "running_var",
            // Histories and counters of norms that torchvision does not have.
            _ => return None,
        };
        let layer = owner[..norm_at.unwrap_or(owner.len())].to_vec();
        Some(Self { layer, is_norm: norm_at.is_some(), tensor })
    }

    fn detector_layers(&self) -> Vec<String> {
        match self.layer.as_slice() {
            ["backbone", rest @ ..] => {
                resnet_layer(rest, self.is_norm).map(|layer| format!("{BACKBONE_PREFIX}{layer}")).into_iter().collect()
            }
            ["neck", "laterals", level] => self.conv_norm(&format!("backbone.fpn.inner_blocks.{level}")),
            ["neck", "outputs", level] => self.conv_norm(&format!("backbone.fpn.layer_blocks.{level}")),
            ["rpn", "head", "conv"] => vec!["rpn.head.conv.0.0".into(), "rpn.head.conv".into()],
            ["rpn", "head", "objectness"] => vec!["rpn.head.cls_logits".into()],
            ["rpn", "head", "deltas"] => vec!["rpn.head.bbox_pred".into()],
            ["roi", "boxes", "head", rest @ ..] => self.box_head(rest),
            ["roi", "mask", "head", rest @ ..] => self.mask_head(rest),
            _ => Vec::new(),
        }
    }

    /// `Conv2dNormActivation`, which once was a bare convolution.
    fn conv_norm(&self, block: &str) -> Vec<String> {
        if self.is_norm { vec![format!("{block}.1")] } else { vec![format!("{block}.0"), block.to_owned()] }
    }

    fn box_head(&self, layer: &[&str]) -> Vec<String> {
        match layer {
            ["convs", index] => self.conv_norm(&format!("roi_heads.box_head.{index}")),
            // The first layer of `TwoMLPHead`, or the one of `FastRCNNConvFCHead` behind four convolutions and `Flatten`.
            ["fcs", "0"] => vec!["roi_heads.box_head.fc6".into(), "roi_heads.box_head.5".into()],
            ["fcs", "1"] => vec!["roi_heads.box_head.fc7".into()],
            ["class_logits"] => vec!["roi_heads.box_predictor.cls_score".into()],
            ["deltas"] => vec!["roi_heads.box_predictor.bbox_pred".into()],
            _ => Vec::new(),
        }
    }

    fn mask_head(&self, layer: &[&str]) -> Vec<String> {
        match layer {
            ["convs", index] => {
                let mut names = self.conv_norm(&format!("roi_heads.mask_head.{index}"));
                if !self.is_norm {
                    names.push(format!("roi_heads.mask_head.mask_fcn{}", one_more(index)));
                }
                names
            }
            ["deconv"] => vec!["roi_heads.mask_predictor.conv5_mask".into()],
            ["logits"] => vec!["roi_heads.mask_predictor.mask_fcn_logits".into()],
            _ => Vec::new(),
        }
    }
}

fn resnet_layer(layer: &[&str], is_norm: bool) -> Option<String> {
    let kind = if is_norm { "bn" } else { "conv" };
    match layer {
        ["stem"] => Some(format!("{kind}1")),
        ["stages", stage, block, "convs", index] => {
            Some(format!("layer{}.{block}.{kind}{}", one_more(stage), one_more(index)))
        }
        ["stages", stage, block, "shortcut"] => {
            Some(format!("layer{}.{block}.downsample.{}", one_more(stage), usize::from(is_norm)))
        }
        _ => None,
    }
}

/// torchvision counts stages and convolutions from one.
fn one_more(index: &str) -> usize {
    index.parse::<usize>().expect("an element of a Vec module is named by its index") + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(path: &str) -> Vec<String> {
        path.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn layers_have_their_current_and_their_former_names() {
        let names = |path| detector_names(&split(path));
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
        assert!(names("neck.outputs.0.norm.CrossIteration.history.mean").is_empty());
    }

    #[test]
    fn a_backbone_is_found_alone_and_in_a_detector() {
        assert_eq!(backbone_names(&split("stem.weight")), ["conv1.weight", "backbone.body.conv1.weight"]);
        assert!(is_backbone_name("backbone.body.layer1.0.conv1.weight") && is_backbone_name("bn1.bias"));
        assert!(!is_backbone_name("fc.weight") && !is_backbone_name("backbone.fpn.layer_blocks.0.weight"));
    }
}
