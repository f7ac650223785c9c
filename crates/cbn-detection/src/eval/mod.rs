//! From detections to COCO numbers and reports.
//!
//! [`collect`] brings detections back to original pixels, [`evaluate`] scores them against a [`GroundTruth`],
//! [`score_table`] and [`class_table`] print the result, [`analyze`] explains it.

mod analysis;
mod coco;
mod collect;
mod error;
mod evaluator;
mod intervals;
mod paste_masks;
mod report;
mod results;

pub use analysis::{
    Analysis, Calibration, CalibrationBin, ClassAnalysis, ErrorKind, ImageScore, OperatingPoint, PrecisionCurve,
    analyze,
};
pub use coco::{ClassAp, EvalConfig, GroundTruth, IouType, Summary, evaluate};
pub use collect::collect;
pub use error::EvalError;
pub use evaluator::{Evaluator, detect};
pub use intervals::{ApSamples, ApTriple, Interval};
pub use paste_masks::paste_mask;
pub use report::{class_table, score_table};
pub use results::{CocoDetection, mask_to_rle, read_results, write_results};
