use burn::tensor::Tensor;
use cbn::process_group::Peers;

/// The losses of one training step, each a mean as its head defines it.
///
/// # Shapes
///
/// Every loss is `[1]`, and so is the accuracy.
#[derive(Debug, Clone)]
pub struct Losses {
    /// RPN: object or background.
    pub rpn_objectness: Tensor<1>,
    /// RPN: box deltas.
    pub rpn_box: Tensor<1>,
    /// Box head: class.
    pub roi_class: Tensor<1>,
    /// Box head: box deltas.
    pub roi_box: Tensor<1>,
    /// Mask head, when there is one.
    pub roi_mask: Option<Tensor<1>>,
    /// What the means are over.
    pub counts: LossCounts,
    /// Percentage of the sampled rois that the box head classifies right, background included. It is no loss.
    pub class_accuracy: Tensor<1>,
}

/// What the losses of one batch are divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LossCounts {
    /// Both losses of the RPN: sampled anchors.
    pub anchors: usize,
    /// Both losses of the box head: sampled rois.
    pub rois: usize,
    /// The loss of the mask head: rois that stand for an object.
    pub positives: usize,
}

impl Losses {
    /// Every loss with its name.
    pub fn named(&self) -> Vec<(&'static str, Tensor<1>)> {
        let mut named = vec![
            ("rpn_objectness", self.rpn_objectness.clone()),
            ("rpn_box", self.rpn_box.clone()),
            ("roi_class", self.roi_class.clone()),
            ("roi_box", self.roi_box.clone()),
        ];
        named.extend(self.roi_mask.clone().map(|loss| ("roi_mask", loss)));
        named
    }

    /// This process's part of the losses of the batches of all peers together: their means are over all that the peers sampled, and the sum of
    /// the parts, over the peers, is what one process would have computed from all batches.
    #[must_use]
    pub fn among(self, peers: &Peers) -> Self {
        if peers.is_alone() {
            return self;
        }
        let LossCounts { anchors, rois, positives } = self.counts;
        let own = [anchors, rois, positives].map(|count| count as f64);
        let mut total = own;
        peers.sum_f64(&mut total);
        let [anchors, rois, positives] = std::array::from_fn(|i| own[i] / total[i].max(1.0));
        Self {
            rpn_objectness: self.rpn_objectness * anchors,
            rpn_box: self.rpn_box * anchors,
            roi_class: self.roi_class * rois,
            roi_box: self.roi_box * rois,
            roi_mask: self.roi_mask.map(|mask| mask * positives),
            counts: self.counts,
            class_accuracy: self.class_accuracy * rois,
        }
    }

    /// What is minimised: the plain sum.
    pub fn total(&self) -> Tensor<1> {
        let boxes = self.rpn_objectness.clone() + self.rpn_box.clone() + self.roi_class.clone() + self.roi_box.clone();
        match &self.roi_mask {
            Some(mask) => boxes + mask.clone(),
            None => boxes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_total_is_the_sum_with_and_without_a_mask_head() {
        let device = Device::default();
        let loss = |value: f32| Tensor::<1>::from_floats([value], &device);
        let mut losses = Losses {
            rpn_objectness: loss(1.0),
            rpn_box: loss(2.0),
            roi_class: loss(4.0),
            roi_box: loss(8.0),
            roi_mask: Some(loss(16.0)),
            counts: LossCounts::default(),
            class_accuracy: loss(50.0),
        };
        assert_eq!(losses.total().into_scalar::<f32>(), 31.0);
        assert_eq!(losses.named().len(), 5);
        losses.roi_mask = None;
        assert_eq!(losses.total().into_scalar::<f32>(), 15.0);
        assert!(losses.named().iter().all(|(name, _)| *name != "roi_mask"));
    }
}
