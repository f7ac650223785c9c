use burn::{
    nn::loss::{BinaryCrossEntropyLossConfig, Reduction, SmoothL1LossConfig},
    tensor::Tensor,
};
use rand::Rng;
use rayon::prelude::*;

use super::{CODER, RpnPredictions};
use crate::{
    model::{config::RpnConfig, host},
    ops::{BalancedSampler, Match, Matcher},
    structures::{BBox, Targets},
};

/// The two losses of the RPN, each a single number.
#[derive(Clone, Debug)]
pub struct RpnLosses {
    /// Binary cross entropy, mean over the sampled anchors of the batch.
    pub objectness: Tensor<1>,
    /// Smooth L1 over the sampled positives' four deltas, summed and divided by the number of sampled anchors.
    pub deltas: Tensor<1>,
}

/// The anchors that a step learns from, over the whole batch.
#[derive(Default)]
struct AnchorSample {
    /// Positives, as indices into `[B, N]`.
    positives: Vec<usize>,
    /// The deltas that the positives should have.
    deltas: Vec<[f32; 4]>,
    /// Negatives, as indices into `[B, N]`.
    negatives: Vec<usize>,
}

pub(super) fn rpn_losses<R: Rng>(
    predictions: &RpnPredictions,
    anchors: &[BBox],
    targets: &[Targets],
    config: &RpnConfig,
    rng: &mut R,
) -> RpnLosses {
    let AnchorSample { positives, deltas, negatives } = sample_anchors(anchors, targets, config, rng);
    let device = predictions.objectness.device();
    let [batch, num_anchors] = predictions.objectness.dims();
    let num_sampled = positives.len() + negatives.len();

    let mut labels = vec![1; positives.len()];
    labels.resize(num_sampled, 0);
    let sampled: Vec<usize> = positives.iter().chain(&negatives).copied().collect();
    let logits =
        predictions.objectness.clone().reshape([batch * num_anchors]).select(0, host::indices(&sampled, &device));
    let objectness = BinaryCrossEntropyLossConfig::new()
        .with_logits(true)
        .init(&device)
        .forward(logits, host::indices(&labels, &device));

    let all_deltas = predictions.deltas.clone().reshape([batch * num_anchors, 4]);
    let deltas = if positives.is_empty() {
        // Connected to the graph: the layer has a gradient in every step, even if it is zero.
        all_deltas.slice([0..1]).sum().mul_scalar(0.0)
    } else {
        SmoothL1LossConfig::new()
            .with_beta(config.smooth_l1_beta)
            .init()
            .forward_with_reduction(
                all_deltas.select(0, host::indices(&positives, &device)),
                host::rows(deltas, &device),
                Reduction::Sum,
            )
            .div_scalar(num_sampled as f32)
    };
    RpnLosses { objectness, deltas }
}

fn sample_anchors<R: Rng>(anchors: &[BBox], targets: &[Targets], config: &RpnConfig, rng: &mut R) -> AnchorSample {
    let matcher = Matcher { positive_iou: config.positive_iou, negative_iou: config.negative_iou, keep_best: true };
    let sampler =
        BalancedSampler { batch_size: config.batch_size_per_image, positive_fraction: config.positive_fraction };
    let matches: Vec<Vec<Match>> = targets.par_iter().map(|targets| matcher.assign(&targets.boxes, anchors)).collect();
    let mut batch_sample = AnchorSample::default();
    for (image, (matches, targets)) in matches.iter().zip(targets).enumerate() {
        let start = image * anchors.len();
        let sample = sampler.sample(matches, rng);
        for &index in &sample.positives {
            let Match::Object(gt_index) = matches[index] else { unreachable!("the sampler's positives are objects") };
            batch_sample.positives.push(start + index);
            batch_sample.deltas.push(CODER.encode(&targets.boxes[gt_index], &anchors[index]));
        }
        batch_sample.negatives.extend(sample.negatives.iter().map(|index| start + index));
    }
    batch_sample
}
