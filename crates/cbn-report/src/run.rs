//! What a training left in its work directory.

use std::path::{Path, PathBuf};

use cbn_detection::data::Dataset;
use cbn_detection::eval::{
    Analysis, CocoDetection, EvalConfig, EvalError, GroundTruth, IouType, analyze, read_results,
};
use cbn_detection::train::RunInfo;
use serde_json::Value;

use crate::ReportError;
use crate::log::RunLog;

/// Where the validation data lies, if not where the run found it.
#[derive(Debug, Clone, Default)]
pub struct RunPaths {
    /// COCO JSON.
    pub val_annotations: Option<PathBuf>,
    /// Folder of the images.
    pub val_images: Option<PathBuf>,
}

/// A run with everything that a report says about it.
#[derive(Debug)]
pub struct Run {
    /// The directory's name.
    pub name: String,
    pub(crate) info: Option<RunInfo>,
    pub(crate) log: RunLog,
    /// None before the first evaluation, and for runs that kept no detections.
    pub(crate) results: Option<Results>,
}

/// The last evaluation.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) dataset: Dataset,
    pub(crate) detections: Vec<CocoDetection>,
    /// For each kind of overlap; masks last.
    pub(crate) analyses: Vec<Analysis>,
}

impl Results {
    /// Of masks where there are some.
    pub(crate) fn main(&self) -> &Analysis {
        self.analyses.last().expect("an evaluation measures something")
    }
}

impl Run {
    /// Reads a work directory: log.jsonl must be there; what run.json and detections.json would tell is left out if they are not.
    ///
    /// # Errors
    ///
    /// A file cannot be read or understood, or the validation annotations are not where the run found them.
    pub fn open(dir: &Path, paths: &RunPaths) -> Result<Self, ReportError> {
        let log = RunLog::read(&dir.join("log.jsonl"))?;
        let info = optional(&dir.join("run.json"))?;
        let detections = dir.join("detections.json");
        let results = match (&info, detections.is_file()) {
            (Some(info), true) => Some(results(info, &log, &detections, paths)?),
            _ => None,
        };
        let name = std::path::absolute(dir).ok().and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
        Ok(Self { name: name.unwrap_or_else(|| dir.display().to_string()), info, log, results })
    }

    /// The resolved recipe; null if unknown.
    pub(crate) fn plan(&self) -> &Value {
        self.info.as_ref().map_or(&Value::Null, |info| &info.plan)
    }

    pub(crate) fn description(&self) -> &str {
        self.plan()["description"].as_str().unwrap_or_default()
    }
}

fn optional(path: &Path) -> Result<Option<RunInfo>, ReportError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| ReportError::Format {
            path: path.to_owned(),
            line: error.line(),
            reason: error.to_string(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReportError::Read { path: path.to_owned(), source }),
    }
}

fn results(info: &RunInfo, log: &RunLog, detections: &Path, paths: &RunPaths) -> Result<Results, ReportError> {
    let annotations = paths.val_annotations.as_ref().unwrap_or(&info.val_annotations);
    let images = paths.val_images.as_ref().unwrap_or(&info.val_images);
    let mut dataset = Dataset::load(annotations, images)?;
    // An evaluation may have been of the first images only (`train.evaluate_images`).
    dataset.images.truncate(info.num_val_images);
    let evaluated = dataset.images.iter().map(|image| image.id).collect();
    let ground_truth = GroundTruth::load(annotations)?.of_images(&evaluated);
    let detections = read_results(detections)?;
    let config = EvalConfig {
        max_detections: serde_json::from_value(info.plan["max_detections"].clone())
            .unwrap_or(EvalConfig::default().max_detections),
    };
    let has_masks = log.evaluations.last().is_some_and(|evaluation| evaluation.metrics.contains_key("segm"));
    let kinds = if has_masks { vec![IouType::Bbox, IouType::Segm] } else { vec![IouType::Bbox] };
    let analyses = kinds
        .into_iter()
        .map(|kind| analyze(&ground_truth, &detections, kind, &config))
        .collect::<Result<Vec<_>, EvalError>>()?;
    Ok(Results { dataset, detections, analyses })
}
