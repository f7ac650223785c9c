use burn::{
    module::Module,
    nn::loss::{CrossEntropyLossConfig, Reduction, SmoothL1LossConfig},
    tensor::{Device, Int, Tensor},
};
use cbn::ops::Roi;

use super::{
    box_head::{BoxHead, BoxHeadOutput},
    pool::pool_rois,
    postprocess::{self, BoxPredictions},
    sampling::RoiSample,
    to_rois,
};
use crate::{
    model::{config::BoxBranchConfig, host},
    ops::BoxCoder,
    structures::{Detections, ImageSize, Proposals, Pyramid, Targets},
};

/// The two losses of the box branch, each a single number.
#[derive(Clone, Debug)]
pub struct BoxLosses {
    /// Cross entropy, mean over the sampled rois of the batch.
    pub class: Tensor<1>,
    /// Smooth L1 over the positives' four deltas of their class, summed and divided by the number of sampled rois.
    pub deltas: Tensor<1>,
    /// The percentage of the sampled rois whose own class, or background, has the highest logit; no gradient flows through it. 0 without a roi.
    pub class_accuracy: Tensor<1>,
}

/// Classifies proposals and refines their boxes.
#[derive(Module, Debug)]
pub struct BoxBranch {
    /// The layers.
    pub head: BoxHead,
    #[module(skip)]
    config: BoxBranchConfig,
    #[module(skip)]
    num_classes: usize,
}

impl BoxBranchConfig {
    /// A branch on a pyramid of `channels` channels, with random weights.
    pub fn init(&self, channels: usize, num_classes: usize, device: &Device) -> BoxBranch {
        BoxBranch { head: self.init_head(channels, num_classes, device), config: self.clone(), num_classes }
    }
}

impl BoxBranch {
    /// Feature cells of a roi, which the first fully connected layer reads.
    pub(in crate::model) fn cells_per_roi(&self) -> usize {
        self.config.pool.side.pow(2)
    }

    /// Object classes, background not counted.
    pub(in crate::model) fn num_classes(&self) -> usize {
        self.num_classes
    }

    pub(super) fn config(&self) -> &BoxBranchConfig {
        &self.config
    }

    pub(super) fn losses(&self, pyramid: &Pyramid, samples: &[RoiSample], targets: &[Targets]) -> BoxLosses {
        let device = pyramid.levels[0].device();
        let rois: Vec<Roi> = to_rois(samples.iter().map(|sample| sample.boxes.as_slice()));
        // Also without a roi: norms over a group wait for every process.
        let output = self.head.forward(pool_rois(pyramid, &rois, &self.config.pool));
        if rois.is_empty() {
            let class_accuracy = Tensor::zeros([1], &device);
            return BoxLosses { class: nothing(output.class_logits), deltas: nothing(output.deltas), class_accuracy };
        }
        let goal =
            BoxGoal::new(samples, targets, &BoxCoder::new(self.config.box_weights, self.config.conventions.clamp));
        let of_goal = host::indices(&goal.logit_indices, &device);
        let class_accuracy = percent_right(output.class_logits.clone().detach(), of_goal.clone());
        let class = CrossEntropyLossConfig::new().init(&device).forward(output.class_logits, of_goal);
        BoxLosses { class, deltas: self.delta_loss(output.deltas, goal), class_accuracy }
    }

    fn delta_loss(&self, pred_deltas: Tensor<2>, goal: BoxGoal) -> Tensor<1> {
        let device = pred_deltas.device();
        let [num_rois, _] = pred_deltas.dims();
        let num_logits = self.num_classes + 1;
        if goal.positives.is_empty() {
            // Connected to the graph: the layer has a gradient in every step, even if it is zero.
            return nothing(pred_deltas.slice([0..1]));
        }
        let of_own_class: Vec<usize> =
            goal.positives.iter().map(|&roi| roi * num_logits + goal.logit_indices[roi]).collect();
        SmoothL1LossConfig::new()
            .with_beta(self.config.smooth_l1_beta)
            .init()
            .forward_with_reduction(
                pred_deltas.reshape([num_rois * num_logits, 4]).select(0, host::indices(&of_own_class, &device)),
                host::rows(goal.deltas, &device),
                Reduction::Sum,
            )
            .div_scalar(num_rois as f32)
    }

    /// What each image may show: every class of every proposal that scores above the threshold, near-duplicates included.
    pub(super) fn candidates(
        &self,
        pyramid: &Pyramid,
        proposals: &[Proposals],
        images: &[(ImageSize, [f32; 2])],
    ) -> Vec<Detections> {
        let rois = to_rois(proposals.iter().map(|proposals| proposals.boxes.as_slice()));
        if rois.is_empty() {
            return vec![Detections::default(); proposals.len()];
        }
        let BoxHeadOutput { class_logits, deltas } = self.head.forward(pool_rois(pyramid, &rois, &self.config.pool));
        let (class_logits, deltas) = (host::read(class_logits), host::read(deltas));
        let num_logits = self.num_classes + 1;
        let mut start = 0;
        let mut candidates = Vec::with_capacity(proposals.len());
        for (proposals, &(size, _)) in proposals.iter().zip(images) {
            let of_image = start * num_logits..(start + proposals.len()) * num_logits;
            let predictions = BoxPredictions {
                class_logits: &class_logits[of_image.clone()],
                deltas: &deltas[of_image.start * 4..of_image.end * 4],
                num_classes: self.num_classes,
            };
            candidates.push(postprocess::candidates(&predictions, proposals, size, &self.config));
            start += proposals.len();
        }
        candidates
    }

    /// Of the candidates of one image, those that stay, best first; `scale` is how many network pixels an original pixel has.
    pub(super) fn suppress(&self, candidates: &Detections, scale: [f32; 2]) -> Detections {
        postprocess::suppress(candidates, scale, &self.config)
    }
}

/// Zero, connected to the graph.
pub(super) fn nothing<const D: usize>(outputs: Tensor<D>) -> Tensor<1> {
    outputs.sum().mul_scalar(0.0)
}

/// How many rows of a hundred have their highest logit where it should be (mmdetection 0.6 `accuracy`).
///
/// # Shapes
///
/// `[N, K + 1]`, `[N]` to `[1]`.
fn percent_right(logits: Tensor<2>, expected: Tensor<1, Int>) -> Tensor<1> {
    let num_rows = expected.dims()[0];
    logits.argmax(1).reshape([num_rows]).equal(expected).float().sum() * (100.0 / num_rows as f64)
}

/// What the box head should say about the sampled rois of a batch.
struct BoxGoal {
    /// One per roi: 0 for background, 1 + label for an object.
    logit_indices: Vec<usize>,
    /// The rois that stand for an object.
    positives: Vec<usize>,
    /// The deltas of each positive to its object.
    deltas: Vec<[f32; 4]>,
}

impl BoxGoal {
    fn new(samples: &[RoiSample], targets: &[Targets], coder: &BoxCoder) -> Self {
        let mut goal = Self { logit_indices: Vec::new(), positives: Vec::new(), deltas: Vec::new() };
        for (sample, targets) in samples.iter().zip(targets) {
            let start = goal.logit_indices.len();
            goal.logit_indices.extend(sample.gt_indices.iter().map(|&gt_index| targets.labels[gt_index] + 1));
            goal.positives.extend(start..goal.logit_indices.len());
            goal.logit_indices.resize(start + sample.boxes.len(), 0);
            let positives = sample.boxes.iter().zip(&sample.gt_indices);
            goal.deltas.extend(positives.map(|(roi, &gt_index)| coder.encode(&targets.boxes[gt_index], roi)));
        }
        goal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The percentages that mmdetection 0.6.2 `accuracy` gives for these logits.
    #[test]
    fn background_counts_among_what_is_right() {
        let device = Device::flex();
        let logits = Tensor::<2>::from_floats(
            [[2.0, 1.0, -1.0], [0.5, 0.25, 0.75], [-3.0, -2.0, -4.0], [0.0, 1.0, 5.0], [1.0, 0.0, 0.5]],
            &device,
        );
        let percent = |expected: [i32; 5]| {
            percent_right(logits.clone(), Tensor::from_ints(expected, &device)).into_scalar::<f32>()
        };
        assert_eq!(percent([0, 2, 1, 2, 0]), 100.0);
        assert_eq!(percent([0, 0, 1, 1, 0]), 60.0);
        assert_eq!(percent([1, 0, 0, 0, 1]), 0.0);
    }
}
