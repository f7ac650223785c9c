use std::collections::HashSet;
use std::ops::ControlFlow;

use burn::tensor::Device;
use cbn::process_group::Peers;

use super::{CocoDetection, EvalConfig, EvalError, GroundTruth, IouType, Summary, collect, evaluate};
use crate::agree::agree;
use crate::data::{Dataset, TestLoader};
use crate::model::Detector;
use crate::structures::{Detections, PaddedImages};

/// Runs a detector over a data set and scores what it finds.
#[derive(Debug)]
pub struct Evaluator {
    loader: TestLoader,
    ground_truth: GroundTruth,
    iou_types: Vec<IouType>,
    config: EvalConfig,
    category_ids: Vec<u64>,
    flip: bool,
    peers: Peers,
}

impl Evaluator {
    /// Scores against the annotations that the loader's data set was read from, of the images that are still in it.
    ///
    /// # Errors
    ///
    /// The annotations cannot be read, or the limits on detections do not rise.
    pub fn new(loader: TestLoader, iou_types: Vec<IouType>, config: EvalConfig) -> Result<Self, EvalError> {
        config.validate()?;
        let ground_truth = GroundTruth::load(loader.dataset().annotations_path())?;
        let ids = loader.dataset().images.iter().map(|image| image.id).collect();
        let ground_truth = ground_truth.of_images(&ids);
        let category_ids = loader.dataset().category_ids();
        Ok(Self { loader, ground_truth, iou_types, config, category_ids, flip: false, peers: Peers::default() })
    }

    /// For a detector whose labels are not the data set's: the COCO id of each. What it finds of categories that the data set does not have is
    /// dropped after everything else.
    #[must_use]
    pub fn with_category_ids(mut self, category_ids: Vec<u64>) -> Self {
        self.category_ids = category_ids;
        self
    }

    /// Looks at each image mirrored as well, see [`Detector::detect_with_mirror`].
    #[must_use]
    pub fn with_flip(mut self, flip: bool) -> Self {
        self.flip = flip;
        self
    }

    /// For processes that share the images, each with the shard of its rank: every one of them gets what one process would find.
    #[must_use]
    pub fn among(mut self, peers: &Peers) -> Self {
        self.peers = peers.clone();
        self
    }

    /// What detections are scored on.
    pub fn dataset(&self) -> &Dataset {
        self.loader.dataset()
    }

    /// Images that a run goes through in this process.
    pub fn num_images(&self) -> usize {
        self.loader.num_images()
    }

    /// Detects objects in every image and scores them, once per IoU type.
    ///
    /// `on_progress` is told after each batch how many images are done, and may end it all.
    ///
    /// # Errors
    ///
    /// An image cannot be read, `on_progress` breaks, or masks are to be scored and the detector has no mask head.
    pub fn run(
        &self,
        detector: &Detector,
        device: &Device,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(Vec<CocoDetection>, Vec<Summary>), EvalError> {
        let found = match self.detect(detector, device, on_progress) {
            Err(EvalError::Interrupted) => Ok(None),
            found => found.map(Some),
        };
        let parts = agree(found, &self.peers, |rank, reason| EvalError::Peer { rank, reason })?;
        let parts: Vec<_> = parts.into_iter().collect::<Option<_>>().ok_or(EvalError::Interrupted)?;
        let found = interleave(parts);
        let summaries = self
            .iou_types
            .iter()
            .map(|&iou_type| evaluate(&self.ground_truth, &found, iou_type, &self.config))
            .collect::<Result<_, _>>()?;
        Ok((found, summaries))
    }

    /// What is found in each batch of this process.
    fn detect(
        &self,
        detector: &Detector,
        device: &Device,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<CocoDetection>>, EvalError> {
        let known: HashSet<u64> = self.loader.dataset().category_ids().into_iter().collect();
        let mut found = Vec::new();
        let mut num_done = 0;
        for batch in self.loader.batches() {
            let batch = batch?;
            let detections = detect(detector, &batch.images, device, self.flip);
            let of_images = detections.iter().zip(&batch.metas);
            let of_batch = of_images.flat_map(|(detections, meta)| collect(detections, meta, &self.category_ids));
            found.push(of_batch.filter(|detection| known.contains(&detection.category_id)).collect());
            num_done += batch.metas.len();
            if on_progress(num_done).is_break() {
                return Err(EvalError::Interrupted);
            }
        }
        Ok(found)
    }
}

/// What is in each image, in network pixels; with `flip`, from the image and its mirror image together
/// ([`Detector::detect_with_mirror`]).
pub fn detect(detector: &Detector, images: &PaddedImages, device: &Device, flip: bool) -> Vec<Detections> {
    let plain = images.to_device(device);
    if flip {
        detector.detect_with_mirror(&plain, &images.flip_horizontal().to_device(device))
    } else {
        detector.detect(&plain)
    }
}

/// In the order of the data set: rank r of n had the batches r, r + n, ...
fn interleave(parts: Vec<Vec<Vec<CocoDetection>>>) -> Vec<CocoDetection> {
    let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    let mut all = Vec::new();
    loop {
        let mut is_done = true;
        for of_batch in parts.iter_mut().filter_map(Iterator::next) {
            is_done = false;
            all.extend(of_batch);
        }
        if is_done {
            return all;
        }
    }
}
