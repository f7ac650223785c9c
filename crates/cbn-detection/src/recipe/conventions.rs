//! One word in a recipe, a handful of enums in its plan: the only place that knows which belong together.

use serde::{Deserialize, Serialize};

use super::RecipeError;
use super::schema::Recipe;
use crate::data::{
    BarrenImages, CrowdMasks, MaskPaste, MaskResize, ResizeRule, SelectionConventions, TransformConfig,
    TransformConventions,
};
use crate::model::{
    AnchorCount, AnchorLayout, AnchorScope, BoxConventions, DetectorConfig, GtPlace, MaskConventions, RoiRule,
    RpnConventions, SuppressionScale,
};
use crate::ops::{BestCandidates, DeltaClamp};
use crate::structures::{BoxConvention, MaskTarget};

/// Whose arithmetic a run repeats where code bases differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conventions {
    /// This library's: torchvision's, but for what docs/parity.md lists.
    #[default]
    House,
    /// torchvision 0.26 `fasterrcnn_resnet50_fpn` and `maskrcnn_resnet50_fpn`.
    Torchvision,
    /// detectron2 0.6 with the configurations of its model zoo, but for what docs/parity.md lists.
    Detectron2,
    /// The code released with the paper, a fork of mmdetection 0.6.
    Released,
}

impl Conventions {
    /// The transform with these conventions.
    pub(super) fn transform(self, config: &TransformConfig) -> TransformConfig {
        let conventions = match self {
            Self::House => TransformConventions::default(),
            Self::Torchvision => TransformConventions {
                resize: ResizeRule::Torchvision,
                boxes: BoxConvention::Continuous,
                masks: MaskResize::TorchNearest,
                paste: MaskPaste::PaddedWholePixels,
            },
            Self::Detectron2 => TransformConventions { resize: ResizeRule::Pillow, ..TransformConventions::default() },
            Self::Released => TransformConventions {
                resize: ResizeRule::OpenCv,
                boxes: BoxConvention::LegacyInclusive,
                masks: MaskResize::OpenCvNearest,
                paste: MaskPaste::WholePixels,
            },
        };
        TransformConfig { conventions, ..config.clone() }
    }

    /// What is trained on.
    pub(super) fn selection(self) -> SelectionConventions {
        match self {
            Self::House | Self::Torchvision | Self::Detectron2 => SelectionConventions::default(),
            Self::Released => SelectionConventions {
                min_side_px: 32,
                reads_ignore: true,
                barren: BarrenImages::Replaced,
                crowd_masks: CrowdMasks::Listed,
            },
        }
    }

    /// The detector with these conventions.
    pub(super) fn detector(self, mut config: DetectorConfig) -> DetectorConfig {
        config.rpn.conventions = self.rpn(config.rpn.negative_iou);
        config.box_head.conventions = self.boxes(config.box_head.positive_iou);
        let rule = match self {
            Self::House | Self::Torchvision | Self::Detectron2 => RoiRule::Torchvision,
            Self::Released => RoiRule::Released,
        };
        config.box_head.pool.rule = rule;
        if let Some(mask_head) = &mut config.mask_head {
            mask_head.pool.rule = rule;
            mask_head.conventions = MaskConventions {
                target: match self {
                    Self::House | Self::Detectron2 => MaskTarget::Rounded,
                    Self::Torchvision => MaskTarget::Interpolated,
                    Self::Released => MaskTarget::WholePixels,
                },
            };
        }
        config
    }

    /// The lowest IoU of a box's best anchor is the one below which anchors are background.
    fn rpn(self, min_iou: f32) -> RpnConventions {
        match self {
            Self::House => RpnConventions::default(),
            Self::Torchvision => RpnConventions {
                anchors: AnchorLayout::CornersByQuotient,
                best: BestCandidates::KeptOrAll,
                ..RpnConventions::default()
            },
            Self::Detectron2 => RpnConventions {
                anchors: AnchorLayout::CornersUnrounded,
                best: BestCandidates::KeptOrAll,
                count: AnchorCount::BatchSize,
                ..RpnConventions::default()
            },
            Self::Released => RpnConventions {
                boxes: BoxConvention::LegacyInclusive,
                anchors: AnchorLayout::InclusivePixels,
                scope: AnchorScope::InsideImage,
                clamp: DeltaClamp::Both,
                best: BestCandidates::Claimed { min_iou },
                count: AnchorCount::AtLeastOneOfEach,
            },
        }
    }

    fn boxes(self, min_iou: f32) -> BoxConventions {
        match self {
            Self::House | Self::Torchvision | Self::Detectron2 => BoxConventions::default(),
            Self::Released => BoxConventions {
                boxes: BoxConvention::LegacyInclusive,
                clamp: DeltaClamp::Both,
                best: BestCandidates::Claimed { min_iou },
                gt_place: GtPlace::First,
                suppression: SuppressionScale::Original,
            },
        }
    }
}

/// A stage's configuration has its conventions, but in a recipe one key sets them together.
pub(super) fn refuse_elsewhere(recipe: &Recipe) -> Result<(), RecipeError> {
    let model = &recipe.model;
    let mask_head = model.mask_head.clone().unwrap_or_default();
    let places = [
        ("model.rpn.conventions", model.rpn.conventions == RpnConventions::default()),
        ("model.box_head.conventions", model.box_head.conventions == BoxConventions::default()),
        ("model.box_head.pool.rule", model.box_head.pool.rule == RoiRule::default()),
        ("model.mask_head.conventions", mask_head.conventions == MaskConventions::default()),
        ("model.mask_head.pool.rule", mask_head.pool.rule == RoiRule::default()),
        ("data.transform.conventions", recipe.data.transform.conventions == TransformConventions::default()),
    ];
    match places.into_iter().find(|(_, is_default)| !is_default) {
        Some((key, _)) => Err(RecipeError::Value {
            key,
            found: "given".to_owned(),
            expected: "but a recipe sets all conventions together: conventions = \"house\", \"torchvision\", \"detectron2\" or \"released\"",
        }),
        None => Ok(()),
    }
}
