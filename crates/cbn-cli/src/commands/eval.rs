//! `cbn eval`: score a COCO results file.

use anyhow::Result;
use cbn_detection::eval::{EvalConfig, GroundTruth, evaluate, read_results};

use crate::cli::EvalArgs;
use crate::output::scores;

pub fn run(args: &EvalArgs) -> Result<()> {
    let &[first, second, last] = args.max_detections.as_slice() else {
        anyhow::bail!("--max-detections needs three numbers, such as 1 10 100");
    };
    let config = EvalConfig { max_detections: [first, second, last] };
    let ground_truth = GroundTruth::load(&args.ground_truth)?;
    let detections = read_results(&args.detections)?;
    let summaries = args
        .eval
        .iter()
        .map(|&kind| evaluate(&ground_truth, &detections, kind.into(), &config))
        .collect::<Result<Vec<_>, _>>()?;
    scores::print(&summaries, args.json)
}
