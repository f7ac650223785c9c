//! Our side of `cargo xtask bench-peers eval`: `bbox` or `segm`.
//!
//! usage: `bench_eval ANNOTATIONS DETECTIONS_BBOX DETECTIONS_SEGM`
//!
//! Timed: what `cbn eval` does, reading both files included.

#[path = "../../../tools/bench/server.rs"]
mod server;

use std::path::Path;

use cbn_detection::eval::{EvalConfig, EvalError, GroundTruth, IouType, Summary, evaluate, read_results};

fn main() -> std::io::Result<()> {
    let [annotations, bbox, segm] = server::arguments();
    server::serve(move |kind| {
        let (iou_type, detections) = match kind {
            "bbox" => (IouType::Bbox, &bbox),
            "segm" => (IouType::Segm, &segm),
            _ => panic!("{kind}: no such overlap"),
        };
        let (elapsed, summary) = server::timed(|| score(Path::new(&annotations), Path::new(detections), iou_type));
        let ap = summary.expect("the prepared files are COCO's").ap.expect("there is ground truth");
        (elapsed, format!("{ap:.6}"))
    })
}

fn score(annotations: &Path, detections: &Path, iou_type: IouType) -> Result<Summary, EvalError> {
    let ground_truth = GroundTruth::load(annotations)?;
    evaluate(&ground_truth, &read_results(detections)?, iou_type, &EvalConfig::default())
}
