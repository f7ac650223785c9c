use burn::{
    module::Module,
    tensor::{
        Device, Tensor, TensorData,
        activation::{log_sigmoid, sigmoid},
    },
};

use super::{
    box_branch::nothing,
    mask_head::{MaskHead, spread},
    pool::pool_rois,
    sampling::RoiSample,
    to_rois,
};
use crate::{
    model::{config::MaskBranchConfig, host},
    structures::{Detections, ImageSize, Pyramid, SoftMask, Targets},
};

/// Draws a mask on every detected box.
#[derive(Module, Debug)]
pub struct MaskBranch {
    /// The layers.
    pub head: MaskHead,
    #[module(skip)]
    config: MaskBranchConfig,
}

impl MaskBranchConfig {
    /// A branch on a pyramid of `channels` channels, with random weights.
    pub fn init(&self, channels: usize, num_classes: usize, device: &Device) -> MaskBranch {
        MaskBranch { head: self.init_head(channels, num_classes, device), config: self.clone() }
    }

    /// Cells along each side of a mask.
    const fn mask_side(&self) -> usize {
        2 * self.pool.side
    }
}

impl MaskBranch {
    /// Binary cross entropy in the channel of each positive's class, mean over positives and cells; zero without positives.
    ///
    /// # Panics
    ///
    /// If targets of an image with positives have no masks.
    pub(super) fn loss(&self, pyramid: &Pyramid, samples: &[RoiSample], targets: &[Targets]) -> Tensor<1> {
        let device = pyramid.levels[0].device();
        let rois = to_rois(samples.iter().map(RoiSample::positives));
        // Also without a roi: norms over a group wait for every process.
        let logits = self.head.forward_folded(pool_rois(pyramid, &rois, &self.config.pool));
        if rois.is_empty() {
            return nothing(logits);
        }
        let labels: Vec<usize> = samples
            .iter()
            .zip(targets)
            .flat_map(|(sample, targets)| sample.gt_indices.iter().map(|&gt_index| targets.labels[gt_index]))
            .collect();
        let gt_masks = self.gt_masks(samples, targets, &device);
        // -t log s(x) - (1 - t) log(1 - s(x)) with s the sigmoid, for any t between 0 and 1.
        let logits = own_channel(logits, &labels);
        (logits.clone() * gt_masks.neg().add_scalar(1.0) - log_sigmoid(logits)).mean()
    }

    /// The masks of the positives' objects under the positives' boxes, `[N, M, M]`.
    fn gt_masks(&self, samples: &[RoiSample], targets: &[Targets], device: &Device) -> Tensor<3> {
        let side = self.config.mask_side();
        let mut cells = Vec::new();
        for (sample, targets) in samples.iter().zip(targets).filter(|(sample, _)| !sample.gt_indices.is_empty()) {
            let masks = targets.masks.as_ref().expect("targets of a detector with a mask branch have masks");
            for (roi, &gt_index) in sample.positives().iter().zip(&sample.gt_indices) {
                cells.extend(self.config.conventions.target.cells(&masks[gt_index], roi, side));
            }
        }
        let num_rois = cells.len() / (side * side);
        Tensor::from_data(TensorData::new(cells, [num_rois, side, side]), device)
    }

    /// Adds masks to the detections of each image.
    pub(super) fn add_masks(&self, pyramid: &Pyramid, detections: Vec<Detections>) -> Vec<Detections> {
        let masks = self.masks(pyramid, &detections);
        share_out(masks, detections)
    }

    /// The same from two looks, the second at the mirror images: the mean of both.
    pub(super) fn add_mean_masks(
        &self,
        [plain, mirrored]: &[Pyramid; 2],
        images: &[(ImageSize, [f32; 2])],
        detections: Vec<Detections>,
    ) -> Vec<Detections> {
        let in_mirror: Vec<Detections> =
            detections.iter().zip(images).map(|(found, (size, _))| found.flip_horizontal(size.width)).collect();
        let looks = self.masks(plain, &detections).into_iter().zip(self.masks(mirrored, &in_mirror));
        let means = looks.map(|(plain, mirrored)| plain.mean(&mirrored.flip_horizontal())).collect();
        share_out(means, detections)
    }

    /// A mask on every box, image after image.
    fn masks(&self, pyramid: &Pyramid, detections: &[Detections]) -> Vec<SoftMask> {
        let rois = to_rois(detections.iter().map(|found| found.boxes.as_slice()));
        if rois.is_empty() {
            return Vec::new();
        }
        let labels: Vec<usize> = detections.iter().flat_map(|found| &found.labels).copied().collect();
        let logits = self.head.forward_own(pool_rois(pyramid, &rois, &self.config.pool), &labels);
        self.to_soft_masks(sigmoid(logits))
    }

    fn to_soft_masks(&self, probabilities: Tensor<3>) -> Vec<SoftMask> {
        let side = self.config.mask_side();
        host::read(probabilities)
            .chunks_exact(side * side)
            .map(|mask| SoftMask { side, probabilities: mask.to_vec() })
            .collect()
    }
}

/// Gives every image the masks of its boxes.
fn share_out(masks: Vec<SoftMask>, mut detections: Vec<Detections>) -> Vec<Detections> {
    let mut masks = masks.into_iter();
    for found in &mut detections {
        found.masks = Some(masks.by_ref().take(found.boxes.len()).collect());
    }
    detections
}

/// Of folded logits `[N, M / 2, 2 M, K + 1]`, those of each roi's own class in their places, `[N, M, M]`.
fn own_channel(folded: Tensor<4>, labels: &[usize]) -> Tensor<3> {
    let [num_rois, height, width, _] = folded.dims();
    let logit_indices: Vec<usize> = labels.iter().map(|label| label + 1).collect();
    let channels = host::indices(&logit_indices, &folded.device())
        .reshape([num_rois, 1, 1, 1])
        .expand([num_rois, height, width, 1]);
    spread(folded.gather(3, channels)).squeeze_dim(3)
}
