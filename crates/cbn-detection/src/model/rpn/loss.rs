use burn::{
    nn::loss::{BinaryCrossEntropyLossConfig, Reduction, SmoothL1LossConfig},
    tensor::Tensor,
};
use rayon::prelude::*;

use super::RpnPredictions;
use crate::{
    model::{
        config::{AnchorCount, AnchorScope, RpnConfig},
        host,
    },
    ops::{BalancedSampler, Draw, Match, Matcher},
    structures::{BBox, ImageSize, Targets},
};

/// The two losses of the RPN, each a single number.
#[derive(Clone, Debug)]
pub struct RpnLosses {
    /// Binary cross entropy, summed over the sampled anchors of the batch and divided by their number.
    pub objectness: Tensor<1>,
    /// Smooth L1 over the sampled positives' four deltas, summed and divided by the number of sampled anchors.
    pub deltas: Tensor<1>,
    /// That number.
    pub count: usize,
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
    /// What both losses are divided by.
    count: usize,
}

pub(super) fn rpn_losses<D: Draw>(
    predictions: &RpnPredictions,
    anchors: &[BBox],
    (targets, sizes): (&[Targets], &[ImageSize]),
    config: &RpnConfig,
    rngs: &mut [D],
) -> RpnLosses {
    let AnchorSample { positives, deltas, negatives, count } = sample_anchors(anchors, (targets, sizes), config, rngs);
    let objectness = predictions.objectness();
    let device = objectness.device();
    let [batch, num_anchors] = objectness.dims();
    let num_sampled = positives.len() + negatives.len();

    let mut labels = vec![1; positives.len()];
    labels.resize(num_sampled, 0);
    let sampled: Vec<usize> = positives.iter().chain(&negatives).copied().collect();
    let logits = objectness.reshape([batch * num_anchors]).select(0, host::indices(&sampled, &device));
    let objectness = BinaryCrossEntropyLossConfig::new()
        .with_logits(true)
        .init(&device)
        .forward(logits, host::indices(&labels, &device))
        // A mean over the sampled ones; where none is counted as one, the divisor is larger.
        .mul_scalar(num_sampled as f32 / count as f32);

    let all_deltas = predictions.deltas().reshape([batch * num_anchors, 4]);
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
            .div_scalar(count as f32)
    };
    RpnLosses { objectness, deltas, count }
}

fn sample_anchors<D: Draw>(
    anchors: &[BBox],
    (targets, sizes): (&[Targets], &[ImageSize]),
    config: &RpnConfig,
    rngs: &mut [D],
) -> AnchorSample {
    let coder = config.coder();
    let sampler =
        BalancedSampler { batch_size: config.batch_size_per_image, positive_fraction: config.positive_fraction };
    let matches: Vec<Vec<Match>> =
        targets.par_iter().zip(sizes).map(|(targets, &size)| match_anchors(anchors, targets, size, config)).collect();
    let mut batch_sample = AnchorSample::default();
    for (image, ((matches, targets), rng)) in matches.iter().zip(targets).zip(rngs).enumerate() {
        let start = image * anchors.len();
        let sample = sampler.sample(matches, rng);
        for &index in &sample.positives {
            let Match::Object(gt_index) = matches[index] else { unreachable!("the sampler's positives are objects") };
            batch_sample.positives.push(start + index);
            batch_sample.deltas.push(coder.encode(&targets.boxes[gt_index], &anchors[index]));
        }
        batch_sample.negatives.extend(sample.negatives.iter().map(|index| start + index));
        let (num_positives, num_negatives) = (sample.positives.len(), sample.negatives.len());
        batch_sample.count += match config.conventions.count {
            AnchorCount::Sampled => num_positives + num_negatives,
            AnchorCount::AtLeastOneOfEach => num_positives.max(1) + num_negatives.max(1),
            AnchorCount::BatchSize => config.batch_size_per_image,
        };
    }
    batch_sample
}

/// One match per anchor; anchors out of scope are ignored, and no box has its best among them.
fn match_anchors(anchors: &[BBox], targets: &Targets, size: ImageSize, config: &RpnConfig) -> Vec<Match> {
    let matcher =
        Matcher { positive_iou: config.positive_iou, negative_iou: config.negative_iou, best: config.conventions.best };
    match config.conventions.scope {
        AnchorScope::All => matcher.assign(&targets.boxes, anchors),
        AnchorScope::InsideImage => {
            let inside: Vec<usize> = (0..anchors.len()).filter(|&index| lies_in(&anchors[index], size)).collect();
            let candidates: Vec<BBox> = inside.iter().map(|&index| anchors[index]).collect();
            let mut matches = vec![Match::Ignored; anchors.len()];
            for (index, found) in inside.into_iter().zip(matcher.assign(&targets.boxes, &candidates)) {
                matches[index] = found;
            }
            matches
        }
    }
}

fn lies_in(anchor: &BBox, size: ImageSize) -> bool {
    anchor.x1 >= 0.0 && anchor.y1 >= 0.0 && anchor.x2 <= size.width as f32 && anchor.y2 <= size.height as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        config::{AnchorConfig, AnchorLayout},
        rpn::AnchorGenerator,
    };

    /// `tools/parity/released_numpy.py`.
    #[test]
    fn released_anchors_inside_the_image_are_those_of_numpy() {
        let fixture = include_str!("../../../../../fixtures/released/conventions.json");
        let fixture: serde_json::Value = serde_json::from_str(fixture).unwrap();
        let case = &fixture["anchors"];
        let [height, width] = serde_json::from_value(case["image"].clone()).unwrap();
        let padded: [usize; 2] = serde_json::from_value(case["padded"].clone()).unwrap();
        let generator = AnchorGenerator::new(&AnchorConfig::default(), AnchorLayout::InclusivePixels);
        let num_inside: Vec<usize> = [4, 8, 16, 32, 64]
            .into_iter()
            .enumerate()
            .map(|(level, stride)| {
                let anchors = generator.on_level(level, padded.map(|side| side.div_ceil(stride)), padded);
                anchors.iter().filter(|anchor| lies_in(anchor, ImageSize::new(height, width))).count()
            })
            .collect();
        assert_eq!(serde_json::to_value(num_inside).unwrap(), case["num_inside"]);
    }

    #[test]
    fn anchors_out_of_scope_are_ignored_and_no_box_has_its_best_among_them() {
        let mut config = RpnConfig::default();
        config.conventions.scope = AnchorScope::InsideImage;
        let gt_box = BBox::new(0.0, 0.0, 10.0, 10.0);
        let targets = Targets { boxes: vec![gt_box], labels: vec![0], masks: None };
        let anchors =
            [BBox::new(-1.0, 0.0, 9.0, 10.0), BBox::new(0.0, 0.0, 10.0, 5.0), BBox::new(40.0, 0.0, 50.0, 9.0)];
        let found = match_anchors(&anchors, &targets, ImageSize::new(20, 60), &config);
        assert_eq!(found, [Match::Ignored, Match::Object(0), Match::Background]);
    }
}
