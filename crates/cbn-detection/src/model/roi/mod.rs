//! What is done per region: classify it, refine its box, draw its mask.

mod box_branch;
mod box_head;
mod mask_branch;
mod mask_head;
mod pool;
mod postprocess;
mod sampling;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use cbn::ops::Roi;

pub use box_branch::{BoxBranch, BoxLosses};
pub use box_head::{BoxHead, BoxHeadOutput};
pub use mask_branch::MaskBranch;
pub use mask_head::{Deconv2x2, MaskHead};
pub use pool::pool_rois;

use crate::{
    model::config::DetectorConfig,
    ops::Draw,
    structures::{BBox, Detections, ImageSize, Proposals, Pyramid, Targets},
};
use sampling::{RoiSample, sample_rois};

/// The branches that look at regions.
#[derive(Module, Debug)]
pub struct RoiHeads {
    /// Class and box of every region.
    pub boxes: BoxBranch,
    /// Masks: there in a Mask R-CNN.
    pub mask: Option<MaskBranch>,
}

/// The losses of the ROI heads.
#[derive(Clone, Debug)]
pub struct RoiLosses {
    /// Class and box.
    pub boxes: BoxLosses,
    /// Masks, if the detector draws them.
    pub mask: Option<Tensor<1>>,
    /// Sampled rois.
    pub num_rois: usize,
    /// Those that stand for an object.
    pub num_positives: usize,
}

impl RoiHeads {
    pub(super) fn init(config: &DetectorConfig, device: &Device) -> Self {
        let channels = config.neck.channels;
        Self {
            boxes: config.box_head.init(channels, config.num_classes, device),
            mask: config.mask_head.as_ref().map(|mask| mask.init(channels, config.num_classes, device)),
        }
    }

    /// Losses on regions drawn from the proposals, with a generator for each image.
    pub fn forward_train<D: Draw>(
        &self,
        pyramid: &Pyramid,
        proposals: Vec<Proposals>,
        targets: &[Targets],
        rngs: &mut [D],
    ) -> RoiLosses {
        let samples: Vec<RoiSample> = proposals
            .into_iter()
            .zip(targets)
            .zip(rngs)
            .map(|((proposals, targets), rng)| sample_rois(proposals, targets, self.boxes.config(), rng))
            .collect();
        RoiLosses {
            boxes: self.boxes.losses(pyramid, &samples, targets),
            mask: self.mask.as_ref().map(|mask| mask.loss(pyramid, &samples, targets)),
            num_rois: samples.iter().map(|sample| sample.boxes.len()).sum(),
            num_positives: samples.iter().map(|sample| sample.gt_indices.len()).sum(),
        }
    }

    /// Detections of each image, at network scale.
    ///
    /// Of each image: its size in network pixels, and how many of them an original pixel has, horizontally and vertically.
    pub fn detect(
        &self,
        pyramid: &Pyramid,
        proposals: &[Proposals],
        images: &[(ImageSize, [f32; 2])],
    ) -> Vec<Detections> {
        let candidates = self.boxes.candidates(pyramid, proposals, images);
        let detections =
            candidates.iter().zip(images).map(|(found, (_, scale))| self.boxes.suppress(found, *scale)).collect();
        match &self.mask {
            Some(mask) => mask.add_masks(pyramid, detections),
            None => detections,
        }
    }

    /// The same from two looks, the second at the mirror images; see [`crate::model::Detector::detect_with_mirror`].
    pub fn detect_with_mirror(
        &self,
        pyramids: &[Pyramid; 2],
        proposals: &[Vec<Proposals>; 2],
        images: &[(ImageSize, [f32; 2])],
    ) -> Vec<Detections> {
        let [plain, mirrored] = [0, 1].map(|look| self.boxes.candidates(&pyramids[look], &proposals[look], images));
        let detections = plain
            .into_iter()
            .zip(mirrored)
            .zip(images)
            .map(|((mut candidates, mirrored), (size, scale))| {
                let back = mirrored.flip_horizontal(size.width);
                candidates.boxes.extend(back.boxes);
                candidates.scores.extend(back.scores);
                candidates.labels.extend(back.labels);
                self.boxes.suppress(&candidates, *scale)
            })
            .collect();
        match &self.mask {
            Some(mask) => mask.add_mean_masks(pyramids, images, detections),
            None => detections,
        }
    }
}

/// The boxes of each image of a batch, image after image.
fn to_rois<'a>(boxes_of_images: impl Iterator<Item = &'a [BBox]>) -> Vec<Roi> {
    boxes_of_images
        .enumerate()
        .flat_map(|(batch_index, boxes)| {
            boxes.iter().map(move |&BBox { x1, y1, x2, y2 }| Roi { batch_index, x1, y1, x2, y2 })
        })
        .collect()
}
