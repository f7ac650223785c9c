//! Why the score is what it is: curves, kinds of error, calibration, single images.

use std::collections::{BTreeMap, HashMap, HashSet};

use hotcoco::{COCOeval, EvalImg};
use serde::Serialize;

use super::coco::{defined, engine, summarize};
use super::{ApSamples, CocoDetection, EvalConfig, EvalError, GroundTruth, IouType, Summary};

/// Overlap from which on a detection counts as correct, wherever one has to be chosen.
const CORRECT_IOU: f64 = 0.5;
/// Overlap below which a detection shows background. Source: Bolya et al. 2020, "TIDE", section 2.2.
const BACKGROUND_IOU: f64 = 0.1;
const NUM_CALIBRATION_BINS: usize = 10;

/// What can be said about detections beyond COCO's twelve numbers.
///
/// "Correct" means an overlap of at least 0.5 with an object of the same class that no better scored detection has, as COCO matches.
#[derive(Debug, Clone)]
pub struct Analysis {
    /// COCO's numbers.
    pub summary: Summary,
    /// Every class, in the ground truth's order of ids.
    pub classes: Vec<ClassAnalysis>,
    /// Precision over recall, mean over classes: at IoU 0.5, at 0.75, and over all ten thresholds.
    pub curves: Vec<PrecisionCurve>,
    /// What is lost to each kind of error (TIDE).
    pub errors: Vec<ErrorKind>,
    /// Whether scores are probabilities.
    pub calibration: Calibration,
    /// Where to cut the scores.
    pub operating_point: OperatingPoint,
    /// Each image at the operating point, in the ground truth's order of ids.
    pub images: Vec<ImageScore>,
    /// For each detection, in order, whether it is correct; none if it counts as neither (a crowd's, or beyond the limit on
    /// detections).
    pub is_correct: Vec<Option<bool>>,
    /// Annotations that a detection at the operating point finds.
    pub found_annotations: HashSet<u64>,
    /// What intervals are drawn from.
    pub samples: ApSamples,
}

/// A class's numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassAnalysis {
    /// COCO id.
    pub category_id: u64,
    /// Display name.
    pub name: String,
    /// Annotated ones, without crowds.
    pub num_objects: usize,
    /// Detections that count.
    pub num_detections: usize,
    /// As in [`super::ClassAp`].
    pub ap: Option<f64>,
    /// At IoU 0.5.
    pub ap50: Option<f64>,
    /// At IoU 0.75.
    pub ap75: Option<f64>,
    /// Expected calibration error; none without detections.
    pub calibration_error: Option<f64>,
    /// Interpolated precision at recall 0, 0.01, ..., 1 and IoU 0.5; empty without objects.
    pub precision50: Vec<f64>,
}

/// Interpolated precision at recall 0, 0.01, ..., 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrecisionCurve {
    /// "IoU 0.50", "IoU 0.75", "mean of 0.50 to 0.95".
    pub name: String,
    /// 101 values; empty without objects.
    pub precision: Vec<f64>,
}

/// One of TIDE's kinds of error.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorKind {
    /// In words.
    pub name: &'static str,
    /// What the AP at IoU 0.5 would gain without these errors.
    pub delta_ap: f64,
    /// How many there are; none for the sums over kinds.
    pub count: Option<u64>,
}

/// Whether scores are probabilities.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// Mean distance of score and share of correct detections, weighted with the bins' counts.
    pub expected_error: f64,
    /// The largest distance of a bin.
    pub largest_error: f64,
    /// Tenths of the scores; empty ones are left out.
    pub bins: Vec<CalibrationBin>,
}

/// Detections with scores from `lower` to `upper`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalibrationBin {
    /// Lowest score.
    pub lower: f64,
    /// Highest score.
    pub upper: f64,
    /// Mean score.
    pub confidence: f64,
    /// Share of correct detections.
    pub accuracy: f64,
    /// Detections.
    pub count: usize,
}

/// The score at which F1 = 2 TP / (2 TP + FP + FN) over all classes is largest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OperatingPoint {
    /// Detections from here on count.
    pub score: f64,
    /// Share of them that is correct.
    pub precision: f64,
    /// Share of objects that they find.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
}

/// An image at the operating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ImageScore {
    /// COCO id.
    pub image_id: u64,
    /// Correct detections.
    pub num_correct: usize,
    /// Other detections.
    pub num_wrong: usize,
    /// Objects that none finds.
    pub num_missed: usize,
}

impl ImageScore {
    /// 2 TP / (2 TP + FP + FN); 1 for an image without objects and detections.
    pub fn f1(&self) -> f64 {
        f1(self.num_correct, self.num_wrong, self.num_missed)
    }
}

/// Scores detections as [`super::evaluate`] does, and explains the score.
///
/// # Errors
///
/// As [`super::evaluate`]; and if a score is outside of 0 to 1.
pub fn analyze(
    ground_truth: &GroundTruth,
    detections: &[CocoDetection],
    iou_type: IouType,
    config: &EvalConfig,
) -> Result<Analysis, EvalError> {
    let mut engine = engine(ground_truth, detections, iou_type, config)?;
    let summary = summarize(&mut engine, iou_type, config);
    // Sizes are the summary's matter. Matched again without them, a quarter of the records is kept.
    engine.params.area_ranges.retain(|range| range.label == "all");
    engine.evaluate()?;
    engine.accumulate();

    let cells: Vec<&EvalImg> = engine.eval_imgs().iter().flatten().collect();
    let operating_point = operating_point(&cells);
    let calibration = engine.calibration(NUM_CALIBRATION_BINS, CORRECT_IOU)?;
    let mut is_correct = vec![None; detections.len()];
    for cell in &cells {
        for (at, is_match) in counted(cell) {
            // The engine numbers detections from 1 on.
            is_correct[cell.dt_ids[at] as usize - 1] = Some(is_match);
        }
    }
    Ok(Analysis {
        classes: classes(&engine, &summary, &cells, &calibration.per_category),
        curves: curves(&engine),
        errors: errors(&engine)?,
        calibration: Calibration {
            expected_error: calibration.ece,
            largest_error: calibration.mce,
            bins: calibration.bins.iter().filter(|bin| bin.count > 0).map(calibration_bin).collect(),
        },
        images: images(ground_truth, &cells, operating_point.score),
        found_annotations: found_annotations(&cells, &is_correct, operating_point.score),
        samples: ApSamples::new(&engine),
        summary,
        operating_point,
        is_correct,
    })
}

/// Row of the matches at [`CORRECT_IOU`], the first of COCO's thresholds.
const CORRECT_ROW: usize = 0;

/// The detections of a cell that count, and whether they are correct.
fn counted(cell: &EvalImg) -> impl Iterator<Item = (usize, bool)> + '_ {
    let (is_match, is_ignored) = (cell.dt_matched.row(CORRECT_ROW), cell.dt_ignore.row(CORRECT_ROW));
    (0..cell.dt_ids.len()).filter(|&at| !is_ignored[at]).map(|at| (at, is_match[at]))
}

fn f1(num_correct: usize, num_wrong: usize, num_missed: usize) -> f64 {
    let sum = 2 * num_correct + num_wrong + num_missed;
    if sum == 0 { 1.0 } else { 2.0 * num_correct as f64 / sum as f64 }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn operating_point(cells: &[&EvalImg]) -> OperatingPoint {
    let num_objects: usize = cells.iter().map(|cell| cell.num_gt_in_denominator()).sum();
    let mut scored: Vec<(f64, bool)> =
        cells.iter().flat_map(|cell| counted(cell).map(|(at, is_match)| (cell.dt_scores[at], is_match))).collect();
    scored.sort_by(|(first, _), (second, _)| second.total_cmp(first));
    let mut best = OperatingPoint { score: 1.0, precision: 0.0, recall: 0.0, f1: 0.0 };
    let mut num_correct = 0;
    for (at, &(score, is_match)) in scored.iter().enumerate() {
        num_correct += usize::from(is_match);
        // Equal scores are cut together.
        if scored.get(at + 1).is_some_and(|&(next, _)| next == score) {
            continue;
        }
        let num_wrong = at + 1 - num_correct;
        // A crop of matches beyond the objects cannot be: each object is matched once.
        let f1 = f1(num_correct, num_wrong, num_objects.saturating_sub(num_correct));
        if f1 > best.f1 {
            best = OperatingPoint {
                score,
                precision: ratio(num_correct, at + 1),
                recall: ratio(num_correct, num_objects),
                f1,
            };
        }
    }
    best
}

fn images(ground_truth: &GroundTruth, cells: &[&EvalImg], score: f64) -> Vec<ImageScore> {
    let mut by_id: BTreeMap<u64, ImageScore> = ground_truth
        .image_ids()
        .map(|image_id| (image_id, ImageScore { image_id, num_correct: 0, num_wrong: 0, num_missed: 0 }))
        .collect();
    for cell in cells {
        let Some(image) = by_id.get_mut(&cell.image_id) else { continue };
        let (right, wrong): (Vec<bool>, Vec<bool>) = counted(cell)
            .filter(|&(at, _)| cell.dt_scores[at] >= score)
            .map(|(_, is_match)| is_match)
            .partition(|is_match| *is_match);
        image.num_correct += right.len();
        image.num_wrong += wrong.len();
        image.num_missed += cell.num_gt_in_denominator().saturating_sub(right.len());
    }
    by_id.into_values().collect()
}

fn found_annotations(cells: &[&EvalImg], is_correct: &[Option<bool>], score: f64) -> HashSet<u64> {
    let is_found = |cell: &EvalImg, detection: u64| {
        let place = cell.dt_ids.iter().position(|&id| id == detection);
        is_correct[detection as usize - 1] == Some(true) && place.is_some_and(|at| cell.dt_scores[at] >= score)
    };
    let found = cells.iter().flat_map(|cell| {
        let matches = cell.gt_matched.row(CORRECT_ROW).iter().zip(cell.gt_matches.row(CORRECT_ROW));
        let pairs = cell.gt_ids.iter().zip(matches);
        pairs.filter(|(_, (is_match, by))| **is_match && is_found(cell, **by)).map(|(id, _)| *id)
    });
    found.collect()
}

fn calibration_bin(bin: &hotcoco::CalibrationBin) -> CalibrationBin {
    CalibrationBin {
        lower: bin.bin_lower,
        upper: bin.bin_upper,
        confidence: bin.avg_confidence,
        accuracy: bin.avg_accuracy,
        count: bin.count,
    }
}

fn errors(engine: &COCOeval) -> Result<Vec<ErrorKind>, EvalError> {
    const KINDS: [(&str, &str); 8] = [
        ("Cls", "wrong class"),
        ("Loc", "badly placed"),
        ("Both", "wrong class and badly placed"),
        ("Dupe", "found twice"),
        ("Bkg", "background"),
        ("Miss", "missed"),
        ("FP", "every false detection"),
        ("FN", "every miss"),
    ];
    let found = engine.tide_errors(CORRECT_IOU, BACKGROUND_IOU)?;
    let kind = |(key, name)| ErrorKind {
        name,
        delta_ap: found.delta_ap.get(key).copied().unwrap_or(0.0),
        count: found.counts.get(key).copied(),
    };
    Ok(KINDS.map(kind).to_vec())
}

/// Interpolated precision of a class at a threshold; empty without objects.
fn precision(engine: &COCOeval, threshold: usize, class: usize) -> Vec<f64> {
    let table = engine.accumulated().expect("the table was just computed");
    let (area, most) = (engine.params.all_area_idx(), engine.params.max_det_idx());
    (0..table.shape.r)
        .map_while(|r| defined(table.precision[table.precision_idx(threshold, r, class, area, most)]))
        .collect()
}

fn curves(engine: &COCOeval) -> Vec<PrecisionCurve> {
    let shape = engine.accumulated().expect("the table was just computed").shape;
    let mean = |thresholds: std::ops::Range<usize>| {
        let all: Vec<Vec<f64>> = thresholds
            .flat_map(|threshold| (0..shape.k).map(move |class| precision(engine, threshold, class)))
            .filter(|curve| !curve.is_empty())
            .collect();
        let at = |r: usize| all.iter().map(|curve| curve[r]).sum::<f64>() / all.len() as f64;
        if all.is_empty() { Vec::new() } else { (0..shape.r).map(at).collect() }
    };
    [("IoU 0.50", 0..1), ("IoU 0.75", 5..6), ("mean of 0.50 to 0.95", 0..shape.t)]
        .map(|(name, thresholds)| PrecisionCurve { name: name.to_owned(), precision: mean(thresholds) })
        .to_vec()
}

fn classes(
    engine: &COCOeval,
    summary: &Summary,
    cells: &[&EvalImg],
    calibration: &BTreeMap<u64, f64>,
) -> Vec<ClassAnalysis> {
    let mut counts: HashMap<u64, (usize, usize)> = HashMap::new();
    for cell in cells {
        let (num_objects, num_detections) = counts.entry(cell.category_id).or_default();
        *num_objects += cell.num_gt_in_denominator();
        *num_detections += counted(cell).count();
    }
    let mean = |curve: &[f64]| (!curve.is_empty()).then(|| curve.iter().sum::<f64>() / curve.len() as f64);
    let class = |(at, class): (usize, &super::ClassAp)| {
        let (num_objects, num_detections) = counts.get(&class.category_id).copied().unwrap_or_default();
        let precision50 = precision(engine, CORRECT_ROW, at);
        ClassAnalysis {
            category_id: class.category_id,
            name: class.name.clone(),
            num_objects,
            num_detections,
            ap: class.ap,
            ap50: mean(&precision50),
            ap75: mean(&precision(engine, 5, at)),
            calibration_error: calibration.get(&class.category_id).copied(),
            precision50,
        }
    };
    summary.per_class.iter().enumerate().map(class).collect()
}
