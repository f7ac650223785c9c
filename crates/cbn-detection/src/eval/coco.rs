use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use hotcoco::{COCO, COCOeval};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::{CocoDetection, EvalError};

/// What overlap is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IouType {
    /// Boxes.
    Bbox,
    /// Masks.
    Segm,
}

impl IouType {
    /// "bbox" or "segm".
    pub fn name(self) -> &'static str {
        match self {
            Self::Bbox => "bbox",
            Self::Segm => "segm",
        }
    }
}

/// How detections are scored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Detections per image and class that count, for the three recalls; the last one holds for all other numbers.
    pub max_detections: [usize; 3],
}

impl Default for EvalConfig {
    /// COCO's 1, 10, 100.
    fn default() -> Self {
        Self { max_detections: [1, 10, 100] }
    }
}

impl EvalConfig {
    /// # Errors
    ///
    /// If the limits do not rise.
    pub fn validate(&self) -> Result<(), EvalError> {
        let [first, second, last] = self.max_detections;
        if 0 < first && first < second && second < last {
            Ok(())
        } else {
            Err(EvalError::MaxDetections(self.max_detections))
        }
    }
}

/// Annotations that detections are scored against.
#[derive(Clone)]
pub struct GroundTruth {
    coco: Arc<COCO>,
}

impl std::fmt::Debug for GroundTruth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dataset = &self.coco.dataset;
        f.debug_struct("GroundTruth")
            .field("images", &dataset.images.len())
            .field("annotations", &dataset.annotations.len())
            .finish()
    }
}

impl GroundTruth {
    /// Reads COCO JSON.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not COCO JSON with images and categories.
    pub fn load(path: &Path) -> Result<Self, EvalError> {
        let fault = |reason: String| EvalError::NotGroundTruth { path: path.to_owned(), reason };
        let coco = COCO::new(path).map_err(|error| match error {
            hotcoco::Error::Io(source) => EvalError::Read { path: path.to_owned(), source },
            other => fault(other.to_string()),
        })?;
        if coco.dataset.images.is_empty() || coco.dataset.categories.is_empty() {
            return Err(fault("it lists no images or no categories".to_owned()));
        }
        Ok(Self { coco: Arc::new(coco) })
    }

    /// The ground truth of these images alone.
    #[must_use]
    pub fn of_images(self, ids: &HashSet<u64>) -> Self {
        let mut dataset = self.coco.dataset.clone();
        dataset.images.retain(|image| ids.contains(&image.id));
        dataset.annotations.retain(|annotation| ids.contains(&annotation.image_id));
        Self { coco: Arc::new(COCO::from_dataset(dataset)) }
    }

    pub(super) fn image_ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.coco.dataset.images.iter().map(|image| image.id)
    }
}

/// Average precision of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassAp {
    /// COCO id.
    pub category_id: u64,
    /// Display name.
    pub name: String,
    /// Mean over the IoU thresholds 0.50, 0.55, ..., 0.95; none if the class has no ground truth.
    pub ap: Option<f64>,
}

/// COCO's twelve numbers and the AP of each class. A number is none if the ground truth has nothing to measure it on, where
/// pycocotools says -1.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// What overlap was measured on.
    pub iou_type: IouType,
    /// The limits on the number of detections that `ar` refers to; the last one holds for all other numbers.
    pub max_detections: [usize; 3],
    /// AP, mean over the IoU thresholds 0.50, 0.55, ..., 0.95.
    pub ap: Option<f64>,
    /// AP at IoU 0.50.
    pub ap50: Option<f64>,
    /// AP at IoU 0.75.
    pub ap75: Option<f64>,
    /// AP of objects below 32 x 32 px.
    pub ap_small: Option<f64>,
    /// AP of objects from 32 x 32 to 96 x 96 px.
    pub ap_medium: Option<f64>,
    /// AP of larger objects.
    pub ap_large: Option<f64>,
    /// Average recall at each limit of `max_detections`.
    pub ar: [Option<f64>; 3],
    /// AR of objects below 32 x 32 px.
    pub ar_small: Option<f64>,
    /// AR of objects from 32 x 32 to 96 x 96 px.
    pub ar_medium: Option<f64>,
    /// AR of larger objects.
    pub ar_large: Option<f64>,
    /// AP of each class, in the ground truth's order of ids.
    pub per_class: Vec<ClassAp>,
}

impl Summary {
    /// The twelve numbers in COCO's order under their usual names: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs,
    /// ARm, ARl; the digits after AR are the limits on the number of detections.
    pub fn named(&self) -> [(String, Option<f64>); 12] {
        let recall = |at: usize| (format!("AR{}", self.max_detections[at]), self.ar[at]);
        [
            ("AP".to_owned(), self.ap),
            ("AP50".to_owned(), self.ap50),
            ("AP75".to_owned(), self.ap75),
            ("APs".to_owned(), self.ap_small),
            ("APm".to_owned(), self.ap_medium),
            ("APl".to_owned(), self.ap_large),
            recall(0),
            recall(1),
            recall(2),
            ("ARs".to_owned(), self.ar_small),
            ("ARm".to_owned(), self.ar_medium),
            ("ARl".to_owned(), self.ar_large),
        ]
    }
}

/// One flat map: the twelve numbers by name, and `per_class`.
impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(13))?;
        for (name, value) in self.named() {
            map.serialize_entry(&name, &value)?;
        }
        map.serialize_entry("per_class", &self.per_class)?;
        map.end()
    }
}

/// Scores detections with COCO's measure, as pycocotools does with `loadRes`, `evaluate`, `accumulate`, `summarize`.
///
/// All images of the ground truth count, also those without a detection. Sizes of detections (small, medium, large) follow
/// pycocotools: by the box where a detection has one, else by the mask.
///
/// # Errors
///
/// If a detection is on an unknown image or of an unknown category, or lacks what is to be measured.
pub fn evaluate(
    ground_truth: &GroundTruth,
    detections: &[CocoDetection],
    iou_type: IouType,
    config: &EvalConfig,
) -> Result<Summary, EvalError> {
    Ok(summarize(&mut engine(ground_truth, detections, iou_type, config)?, iou_type, config))
}

/// The engine, with every detection matched.
pub(super) fn engine(
    ground_truth: &GroundTruth,
    detections: &[CocoDetection],
    iou_type: IouType,
    config: &EvalConfig,
) -> Result<COCOeval, EvalError> {
    config.validate()?;
    let coco = &ground_truth.coco;
    let annotations = detections
        .iter()
        .enumerate()
        .map(|(index, detection)| to_annotation(coco, index, detection, iou_type))
        .collect::<Result<Vec<_>, _>>()?;
    let results = coco.load_res_anns(annotations)?;
    let kind = match iou_type {
        IouType::Bbox => hotcoco::IouType::Bbox,
        IouType::Segm => hotcoco::IouType::Segm,
    };
    let mut engine = COCOeval::new(Arc::clone(coco), results, kind);
    engine.params.max_dets = config.max_detections.to_vec();
    engine.evaluate()?;
    Ok(engine)
}

/// The numbers of an engine that has matched.
pub(super) fn summarize(engine: &mut COCOeval, iou_type: IouType, config: &EvalConfig) -> Summary {
    engine.accumulate();
    // Unlike `summarize`, this computes the numbers without printing them.
    engine.summarize_lines();
    summary(engine, iou_type, config.max_detections)
}

fn to_annotation(
    coco: &COCO,
    index: usize,
    detection: &CocoDetection,
    iou_type: IouType,
) -> Result<hotcoco::Annotation, EvalError> {
    let image = detection.image_id;
    if coco.get_img(image).is_none() {
        return Err(EvalError::UnknownImage { index, image });
    }
    if coco.get_cat(detection.category_id).is_none() {
        return Err(EvalError::UnknownCategory { index, category: detection.category_id });
    }
    match (&detection.bbox, &detection.segmentation) {
        (None, None) => return Err(EvalError::NoGeometry { index, image }),
        // pycocotools would score the box as if it were the mask.
        (_, None) if iou_type == IouType::Segm => return Err(EvalError::NoMask { index, image }),
        _ => {}
    }
    Ok(hotcoco::Annotation {
        image_id: image,
        category_id: detection.category_id,
        bbox: detection.bbox,
        score: Some(detection.score),
        segmentation: detection.segmentation.clone(),
        ..Default::default()
    })
}

fn summary(engine: &COCOeval, iou_type: IouType, max_detections: [usize; 3]) -> Summary {
    let stats = engine.stats().expect("the numbers were just computed");
    let stat = |at: usize| defined(stats[at]);
    Summary {
        iou_type,
        max_detections,
        ap: stat(0),
        ap50: stat(1),
        ap75: stat(2),
        ap_small: stat(3),
        ap_medium: stat(4),
        ap_large: stat(5),
        ar: [stat(6), stat(7), stat(8)],
        ar_small: stat(9),
        ar_medium: stat(10),
        ar_large: stat(11),
        per_class: per_class(engine),
    }
}

/// pycocotools and hotcoco write "nothing to measure" as -1.
pub(super) fn defined(value: f64) -> Option<f64> {
    (value >= 0.0).then_some(value)
}

/// Mean of the precision of each class over IoU thresholds and recalls, for all sizes and the most detections.
fn per_class(engine: &COCOeval) -> Vec<ClassAp> {
    let table = engine.accumulated().expect("the precision table was just computed");
    let area = engine.params.all_area_idx();
    let most = engine.params.max_det_idx();
    let shape = table.shape;
    let mean = |class: usize| {
        let cells = (0..shape.t).flat_map(|t| (0..shape.r).map(move |r| (t, r)));
        let values: Vec<f64> =
            cells.filter_map(|(t, r)| defined(table.precision[table.precision_idx(t, r, class, area, most)])).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    table
        .cat_ids
        .iter()
        .enumerate()
        .map(|(class, &id)| ClassAp { category_id: id, name: engine.coco_gt().cat_name(id), ap: mean(class) })
        .collect()
}
