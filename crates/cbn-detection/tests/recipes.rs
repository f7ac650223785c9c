//! Recipes: the ones of this repository resolve, wrong ones say what is wrong and where.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use std::path::{Path, PathBuf};

use cbn::norm::cbn::{HistoryGradient, HistoryStorage, WindowSpan};
use cbn::{BatchNormConfig, CbnConfig, FrozenNormConfig, GroupNormConfig, NormConfig};
use cbn_detection::data::{MaskPaste, MaskResize, ResizeRule, TransformConfig, TransformConventions};
use cbn_detection::model::{
    AnchorCount, AnchorLayout, BoxHeadKind, DetectorConfig, MaskBranchConfig, MaskConventions, ProposalConfig,
    RoiPoolConfig,
};
use cbn_detection::ops::BestCandidates;
use cbn_detection::recipe::{DataFacts, Plan, Recipe, RecipeError, resolve};
use cbn_detection::structures::{BoxConvention, MaskTarget};

/// COCO train2017 as the released code counts it, 16 images an iteration.
const COCO: DataFacts = DataFacts { num_classes: 80, iterations_per_epoch: 7330 };

fn recipe_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes")
}

fn load(name: &str, assignments: &[&str]) -> Result<Recipe, RecipeError> {
    let assignments: Vec<String> = assignments.iter().map(ToString::to_string).collect();
    Recipe::load(&recipe_dir().join(name), &assignments)
}

fn plan(name: &str, assignments: &[&str]) -> Result<Plan, RecipeError> {
    resolve(&load(name, assignments)?, COCO)
}

fn parse_error(text: &str) -> String {
    Recipe::parse(text, Path::new("my.toml"), &[]).unwrap_err().to_string()
}

const SMALL: &str = r#"description = "small"
[model]
[norm]
backbone = "bn"
neck = "none"
box_head = "none"
[train]
length = { epochs = 2 }
batch_size = 4
learning_rate = 0.02
"#;

#[test]
fn every_recipe_here_resolves_and_its_plan_survives_json() {
    let mut num_recipes = 0;
    let entries = |dir: PathBuf| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let of_others = ["torchvision", "detectron2"].map(|library| entries(recipe_dir().join(library)));
    let paths = entries(recipe_dir()).filter(|path| path.is_file()).chain(of_others.into_iter().flatten());
    for path in paths {
        let recipe = Recipe::load(&path, &[]).unwrap();
        let plan = resolve(&recipe, COCO).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "{}", path.display());
        num_recipes += 1;
    }
    assert_eq!(num_recipes, 21);
}

#[test]
fn the_released_schedule_in_iterations() {
    let plan = plan("mask_rcnn_r50_cbn.toml", &[]).unwrap();
    assert_eq!(plan.train.num_iterations, 87_960);
    assert_eq!(plan.train.schedule.drops, [58_640, 80_630]);
    assert_eq!(plan.train.schedule.warmup_iterations, 500);
    assert_eq!(plan.model.num_classes, 80);
    assert_eq!(plan.max_detections, [1, 10, 100]);
    assert!((plan.expected.unwrap().segm_ap.unwrap() - 34.7).abs() < 1e-12);
}

#[test]
fn faster_and_mask_differ_in_the_mask_head() {
    let faster = plan("faster_rcnn_r50_gn.toml", &[]).unwrap();
    let mask = plan("mask_rcnn_r50_gn.toml", &[]).unwrap();
    assert_eq!(faster.model.mask_head, None);
    assert!(!faster.train_loader.with_masks && mask.train_loader.with_masks);
    assert_eq!(faster.model.box_head, mask.model.box_head);
    assert_eq!(faster.train, mask.train);
}

#[test]
fn more_detections_widen_the_evaluation() {
    assert_eq!(plan("nuclei_mask_rcnn_r18_gn.toml", &[]).unwrap().max_detections, [1, 10, 400]);
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let message = parse_error(&SMALL.replace("learning_rate", "learning_rat"));
    assert!(message.starts_with("my.toml:10:1: unknown field `learning_rat`, expected one of "), "{message}");
    assert!(message.ends_with("| learning_rat = 0.02"), "{message}");
}

#[test]
fn a_wrong_type_is_named_with_its_line() {
    let message = parse_error(&SMALL.replace("batch_size = 4", "batch_size = \"four\""));
    assert!(message.starts_with("my.toml:9:14: invalid type: string \"four\", expected usize"), "{message}");
    assert!(message.ends_with("| batch_size = \"four\""), "{message}");
}

#[test]
fn a_missing_key_is_named_with_its_section() {
    let message = parse_error(&SMALL.replace("batch_size = 4\n", ""));
    assert!(message.starts_with("my.toml:7:1: missing field `batch_size`"), "{message}");
}

#[test]
fn an_unknown_norm_lists_the_known_ones() {
    let message = parse_error(&SMALL.replace("\"bn\"", "\"batch\""));
    assert!(
        message.starts_with("my.toml:4:12: unknown variant `batch`, expected one of `none`, `frozen`"),
        "{message}"
    );
}

#[test]
fn a_norm_without_its_numbers_says_which() {
    let message = parse_error(&SMALL.replace("\"bn\"", "{ kind = \"cbn\", window = 4 }"));
    assert!(message.starts_with("my.toml:4:12: missing field `burn_in`"), "{message}");
}

#[test]
fn a_length_is_in_epochs_or_in_iterations() {
    let message = parse_error(&SMALL.replace("epochs = 2", "epoch = 2"));
    assert!(
        message.starts_with("my.toml:8:12: unknown variant `epoch`, expected `epochs` or `iterations`"),
        "{message}"
    );
    let message = parse_error(&SMALL.replace("epochs = 2", "epochs = 2, iterations = 5"));
    assert!(message.starts_with("my.toml:8:10: "), "{message}");
}

#[test]
fn overrides_reach_any_key_and_may_add_sections() {
    let recipe = load(
        "shapes_mask_rcnn_r18_cbn.toml",
        &["train.learning_rate=1", "norm.neck=bn", "train.length={ iterations = 7 }", "data.num_workers=0"],
    )
    .unwrap();
    let plan = resolve(&recipe, COCO).unwrap();
    assert_eq!(plan.train.schedule.base_learning_rate, 1.0);
    assert_eq!(plan.train.num_iterations, 7);
    assert_eq!(plan.train_loader.num_workers, 0);
}

#[test]
fn an_override_of_a_wrong_type_is_refused() {
    let message = load("shapes_mask_rcnn_r18_cbn.toml", &["train.batch_size=four"]).unwrap_err().to_string();
    assert!(
        message.starts_with("--set train.batch_size=four: invalid type: string \"four\", expected usize"),
        "{message}"
    );
}

#[test]
fn an_override_of_an_unknown_key_is_refused() {
    let message = load("shapes_mask_rcnn_r18_cbn.toml", &["train.lr=0.1"]).unwrap_err().to_string();
    assert!(message.starts_with("--set train.lr=0.1: unknown field `lr`, expected one of `length`"), "{message}");
}

#[test]
fn a_mask_norm_without_a_mask_head_is_refused() {
    let message = plan("faster_rcnn_r50_gn.toml", &["norm.mask_head=bn"]).unwrap_err().to_string();
    assert_eq!(message, "norm.mask_head is given, but there is no [model.mask_head]");
}

#[test]
fn burn_in_is_in_iterations_once_the_epoch_is_known() {
    let norm = |name: &str| plan(name, &[]).unwrap().model.neck.norm;
    let NormConfig::CrossIteration(cbn) = norm("faster_rcnn_r50_cbn.toml") else { panic!("not CBN") };
    assert_eq!(cbn, CbnConfig { burn_in_iterations: 58_640, ..CbnConfig::published() });
    assert_eq!(norm("faster_rcnn_r50_none.toml"), NormConfig::Identity);
    assert_eq!(norm("faster_rcnn_r50_syncbn.toml"), NormConfig::Sync(BatchNormConfig::default()));
    assert_eq!(norm("faster_rcnn_r50_gn.toml"), NormConfig::Group(GroupNormConfig::new(32)));
}

#[test]
fn a_recipe_reaches_the_choices_of_cbn() {
    let with = |table: &str| plan("mask_rcnn_r50_gn.toml", &[&format!("norm.neck={table}")]);
    let options = "span = { kind = \"samples\", at_most = 16 }, history_gradient = \"through_weight\", \
        derivative_sampling = 4, history = \"refill\"";
    let table = format!("{{ kind = \"cbn\", window = 2, burn_in = {{ iterations = 5 }}, {options} }}");
    let expected = CbnConfig {
        window: 2,
        span: WindowSpan::Samples { at_most: 16 },
        burn_in_iterations: 5,
        history_gradient: HistoryGradient::ThroughWeight,
        derivative_sampling: 4,
        history: HistoryStorage::Refill,
        ..CbnConfig::paper()
    };
    assert_eq!(with(&table).unwrap().model.neck.norm, NormConfig::CrossIteration(expected));
    let refused = |option: &str| {
        let table = format!("{{ kind = \"cbn\", window = 2, burn_in = {{ iterations = 5 }}, {option} }}");
        with(&table).unwrap_err().to_string()
    };
    assert_eq!(
        refused("derivative_sampling = 0"),
        "norm.neck: derivative_sampling takes every n-th position, so it is at least 1"
    );
    assert_eq!(
        refused("span = { kind = \"samples\", at_most = 0 }"),
        "norm.neck: span holds the current iteration, so at_most is at least 1"
    );
    let unknown = refused("span = { kind = \"samples\", at_most = 16, at_least = 2 }");
    assert!(unknown.contains("at_least"), "{unknown}");
}

#[test]
fn norms_stand_in_their_section_and_fit_their_convolutions() {
    let refused = |assignment: &str| plan("mask_rcnn_r50_gn.toml", &[assignment]).unwrap_err().to_string();
    assert_eq!(
        refused("model.neck.norm={ kind = \"group\", groups = 2 }"),
        "model.neck.norm is given, but a recipe names its norms in [norm]"
    );
    assert_eq!(refused("norm.neck={ kind = \"gn\", groups = 7 }"), "norm.neck: 7 groups do not divide 256 channels");
    assert_eq!(
        refused("norm.box_head={ kind = \"cbn\", window = 0, burn_in = { epochs = 0 } }"),
        "norm.box_head: a window counts the current iteration, so it is at least 1"
    );
}

#[test]
fn values_that_no_run_can_use_are_refused() {
    let refused = |assignment: &str| plan("shapes_mask_rcnn_r18_cbn.toml", &[assignment]).unwrap_err().to_string();
    assert_eq!(refused("train.learning_rate=-1"), "train.learning_rate is -1, it must be above 0");
    assert_eq!(refused("train.batch_size=0"), "train.batch_size is 0, it must be at least 1");
    assert_eq!(refused("train.length={ epochs = 0 }"), "train.length is 0, it must be at least 1");
    assert_eq!(
        refused("train.drops={ iterations = [5, 5] }"),
        "train.drops is [5, 5] (iterations), each must come after the one before"
    );
    assert_eq!(refused("model.rpn.nms_threshold=1.5"), "model.rpn.nms_threshold is 1.5, it must lie between 0 and 1");
    assert_eq!(refused("data.transform.max_side_px=0"), "data: max_side_px is 0: must be positive");
}

#[test]
fn a_recipe_that_is_not_there_is_named() {
    let message = load("no_such.toml", &[]).unwrap_err().to_string();
    assert!(message.starts_with("cannot read recipe ") && message.contains("no_such.toml"), "{message}");
}

/// Every number of section 2 of the released recipes' description, but for norms and scores, which the tests above have.
#[test]
fn released_recipes_resolve_to_the_released_numbers() {
    for detector in ["faster", "mask"] {
        for norm in ["none", "syncbn", "gn", "cbn", "cbn_as_shipped"] {
            let name = format!("{detector}_rcnn_r50_{norm}.toml");
            let found = serde_json::to_value(plan(&name, &[]).unwrap()).unwrap();
            assert_subset(&name, &found, &released());
            let mask_head = &found["model"]["mask_head"];
            match detector {
                "mask" => assert_subset(&name, mask_head, &released_mask_head()),
                _ => assert!(mask_head.is_null()),
            }
        }
    }
    let burn_in = |name: &str| plan(name, &[]).unwrap().model.neck.norm;
    let NormConfig::CrossIteration(shipped) = burn_in("mask_rcnn_r50_cbn_as_shipped.toml") else { panic!("not CBN") };
    assert_eq!(shipped, CbnConfig { burn_in_iterations: 8, ..CbnConfig::published() });
}

/// All keys of `expected` are in `found` with the same value, numbers to the digits that f32 has.
#[track_caller]
fn assert_subset(place: &str, found: &serde_json::Value, expected: &serde_json::Value) {
    use serde_json::Value;
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (key, expected) in expected {
                assert_subset(&format!("{place}.{key}"), &found[key], expected);
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{place}");
            found.iter().zip(expected).for_each(|(found, expected)| assert_subset(place, found, expected));
        }
        (Value::Number(found), Value::Number(expected)) => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{place}: {found}, expected {expected}");
        }
        _ => assert_eq!(found, expected, "{place}"),
    }
}

fn released() -> serde_json::Value {
    serde_json::json!({
        "model": {
            "backbone": { "depth": "r50", "frozen_stages": 1, "stride_in_1x1": false },
            "neck": { "channels": 256 },
            "rpn": {
                "anchors": { "sizes": [[32], [64], [128], [256], [512]], "aspect_ratios": [0.5, 1, 2] },
                "positive_iou": 0.7,
                "negative_iou": 0.3,
                "batch_size_per_image": 256,
                "positive_fraction": 0.5,
                "train_proposals": { "pre_nms_top_n": 2000, "post_nms_top_n": 2000 },
                "test_proposals": { "pre_nms_top_n": 2000, "post_nms_top_n": 2000 },
                "nms_threshold": 0.7,
                "smooth_l1_beta": 1.0 / 9.0,
                "conventions": {
                    "boxes": "legacy_inclusive",
                    "anchors": "inclusive_pixels",
                    "scope": "inside_image",
                    "clamp": "both",
                    "best": { "claimed": { "min_iou": 0.3 } },
                    "count": "at_least_one_of_each"
                }
            },
            "box_head": {
                "head": "four_conv_one_fc",
                "fc_dim": 1024,
                "pool": { "side": 7, "sampling_ratio": 2, "aligned": false, "rule": "released" },
                "positive_iou": 0.5,
                "batch_size_per_image": 512,
                "positive_fraction": 0.25,
                "box_weights": [10, 10, 5, 5],
                "smooth_l1_beta": 1,
                "score_threshold": 0.05,
                "nms_threshold": 0.5,
                "max_detections": 100,
                "conventions": {
                    "boxes": "legacy_inclusive",
                    "clamp": "both",
                    "best": { "claimed": { "min_iou": 0.5 } },
                    "gt_place": "first",
                    "suppression": "original"
                }
            }
        },
        "transform": {
            "min_side_px": [800],
            "max_side_px": 1333,
            "flip_probability": 0.5,
            "pixel_mean": [123.675, 116.28, 103.53],
            "pixel_std": [58.395, 57.12, 57.375],
            "size_divisor": 32,
            "conventions": {
                "resize": "open_cv",
                "boxes": "legacy_inclusive",
                "masks": "open_cv_nearest",
                "paste": "whole_pixels"
            }
        },
        "train_loader": {
            "batch_size": 16,
            "aspect_grouping": true,
            "selection": { "min_side_px": 32, "reads_ignore": true, "barren": "replaced", "crowd_masks": "listed" }
        },
        "test_loader": { "batch_size": 1 },
        "train": {
            "num_iterations": 12 * 7330,
            "schedule": {
                "base_learning_rate": 0.02,
                "warmup_iterations": 500,
                "warmup_ratio": 1.0 / 3.0,
                "drops": [8 * 7330, 11 * 7330],
                "gamma": 0.1,
                "cosine": null
            },
            "optimizer": { "momentum": 0.9, "weight_decay": 1e-4 },
            "clip_norm": 35,
            "evaluate_every": 7330,
            "checkpoint_every": 7330
        },
        "max_detections": [1, 10, 100]
    })
}

fn released_mask_head() -> serde_json::Value {
    serde_json::json!({
        "pool": { "side": 14, "sampling_ratio": 2, "aligned": false, "rule": "released" },
        "num_convs": 4,
        "channels": 256,
        "conventions": { "target": "whole_pixels" }
    })
}

#[test]
fn conventions_are_set_by_one_key() {
    let refused = |assignment: &str| plan("mask_rcnn_r50_gn.toml", &[assignment]).unwrap_err().to_string();
    let message = refused("model.box_head.conventions.clamp=both");
    assert!(message.starts_with("model.box_head.conventions is given, but a recipe sets all"), "{message}");
    let torchvision = plan("mask_rcnn_r50_gn.toml", &["conventions=torchvision"]).unwrap();
    let found = serde_json::to_value(&torchvision).unwrap();
    assert_eq!(found["transform"]["conventions"]["resize"], "torchvision");
    assert_eq!(found["model"]["rpn"]["conventions"]["anchors"], "corners_by_quotient");
    assert_eq!(found["model"]["mask_head"]["conventions"]["target"], "interpolated");
    assert_eq!(serde_json::from_value::<Plan>(found).unwrap(), torchvision);
}

#[test]
fn the_rate_follows_the_batch_size_when_asked() {
    let rate =
        |assignments: &[&str]| plan("mask_rcnn_r50_gn.toml", assignments).unwrap().train.schedule.base_learning_rate;
    assert_eq!(rate(&["train.batch_size=8"]), 0.01);
    assert_eq!(
        plan("nuclei_mask_rcnn_r18_gn.toml", &["train.batch_size=8"]).unwrap().train.schedule.base_learning_rate,
        0.02
    );
}

#[test]
fn torchvisions_recipes_have_torchvisions_numbers() {
    for (name, is_v2, has_masks) in [
        ("faster_rcnn_r50_fpn", false, false),
        ("mask_rcnn_r50_fpn", false, true),
        ("faster_rcnn_r50_fpn_v2", true, false),
        ("mask_rcnn_r50_fpn_v2", true, true),
    ] {
        let plan = plan(&format!("torchvision/{name}.toml"), &[]).unwrap();
        assert_eq!(plan.model, torchvision_model(is_v2, has_masks), "{name}");
        let conventions = TransformConventions {
            resize: ResizeRule::Torchvision,
            boxes: BoxConvention::Continuous,
            masks: MaskResize::TorchNearest,
            paste: MaskPaste::PaddedWholePixels,
        };
        assert_eq!(plan.transform, TransformConfig { conventions, ..TransformConfig::default() });
        assert_eq!(plan.train.optimizer.weight_decay, if is_v2 { 4e-5 } else { 1e-4 });
        assert_eq!(plan.train.schedule.base_learning_rate, if is_v2 { 0.1 } else { 0.02 });
        let drops = if is_v2 { [352, 384] } else { [16, 22] };
        assert_eq!(plan.train.schedule.drops, drops.map(|epoch| epoch * COCO.iterations_per_epoch));
    }
}

/// torchvision 0.26 `fasterrcnn_resnet50_fpn` and the others: the defaults of this library, but for what stands here.
fn torchvision_model(is_v2: bool, has_masks: bool) -> DetectorConfig {
    let sync = NormConfig::Sync(BatchNormConfig::default());
    let norm = if is_v2 { sync } else { NormConfig::Identity };
    let mut model = DetectorConfig::new(80);
    model.backbone.frozen_stages = usize::from(!is_v2);
    model.backbone.norm = if is_v2 {
        norm.clone()
    } else {
        NormConfig::Frozen(FrozenNormConfig { epsilon: 0.0, ..FrozenNormConfig::default() })
    };
    model.neck.norm = norm.clone();
    model.rpn.num_convs = if is_v2 { 2 } else { 1 };
    model.rpn.conventions.anchors = AnchorLayout::CornersByQuotient;
    model.rpn.conventions.best = BestCandidates::KeptOrAll;
    model.rpn.smooth_l1_beta = 0.111_111_1;
    model.box_head.smooth_l1_beta = 0.111_111_1;
    model.box_head.head = if is_v2 { BoxHeadKind::FourConvOneFc } else { BoxHeadKind::TwoFc };
    model.box_head.norm = norm.clone();
    let conventions = MaskConventions { target: MaskTarget::Interpolated };
    model.mask_head = has_masks.then(|| MaskBranchConfig { norm, conventions, ..MaskBranchConfig::default() });
    model
}

/// detectron2 0.6 `config/defaults.py` and `configs/Base-RCNN-FPN.yaml`: the defaults of this library, but for what stands here.
#[test]
fn detectron2s_recipes_have_detectron2s_numbers() {
    for (name, has_masks) in [("faster_rcnn_r50_fpn_1x", false), ("mask_rcnn_r50_fpn_1x", true)] {
        let plan = plan(&format!("detectron2/{name}.toml"), &[]).unwrap();
        let mut model = DetectorConfig::new(80);
        model.backbone.frozen_stages = 1;
        model.backbone.stride_in_1x1 = true;
        model.backbone.norm = NormConfig::Frozen(FrozenNormConfig::default());
        model.rpn.conventions.anchors = AnchorLayout::CornersUnrounded;
        model.rpn.conventions.best = BestCandidates::KeptOrAll;
        model.rpn.conventions.count = AnchorCount::BatchSize;
        model.rpn.train_proposals = ProposalConfig { pre_nms_top_n: 2000, post_nms_top_n: 1000 };
        model.rpn.smooth_l1_beta = 1e-6;
        model.box_head.smooth_l1_beta = 1e-6;
        model.box_head.pool = RoiPoolConfig { sampling_ratio: 0, aligned: true, ..model.box_head.pool };
        model.mask_head = has_masks.then(|| {
            let head = MaskBranchConfig::default();
            MaskBranchConfig { pool: RoiPoolConfig { sampling_ratio: 0, aligned: true, ..head.pool }, ..head }
        });
        assert_eq!(plan.model, model, "{name}");
        let conventions = TransformConventions { resize: ResizeRule::Pillow, ..TransformConventions::default() };
        let min_side_px = vec![640, 672, 704, 736, 768, 800];
        assert_eq!(plan.transform, TransformConfig { conventions, min_side_px, ..TransformConfig::default() });
        assert_eq!(plan.train.num_iterations, 90_000);
        assert_eq!(plan.train.schedule.drops, [60_000, 80_000]);
    }
}

#[test]
fn frozen_norms_have_an_epsilon() {
    let message = plan("mask_rcnn_r50_gn.toml", &["norm.backbone={ kind = \"frozen\", epsilon = -1.0 }"]);
    assert_eq!(message.unwrap_err().to_string(), "norm.backbone: epsilon is -1, it must be 0 or more");
}
