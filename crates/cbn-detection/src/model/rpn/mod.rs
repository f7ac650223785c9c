//! Region proposals: which of many reference boxes hold an object, and where it is exactly.

mod anchors;
mod head;
mod loss;
mod proposals;

use burn::{module::Module, tensor::Device};
use rayon::prelude::*;

pub use anchors::AnchorGenerator;
pub use head::{RpnHead, RpnPredictions};
pub use loss::RpnLosses;

use crate::{
    model::config::{ProposalConfig, RpnConfig},
    ops::{BoxCoder, Draw},
    structures::{BBox, ImageSize, Proposals, Pyramid, Targets},
};
use proposals::{ImagePredictions, select_proposals};

impl RpnConfig {
    /// Deltas of anchors are not scaled.
    const fn coder(&self) -> BoxCoder {
        BoxCoder::new([1.0; 4], self.conventions.clamp)
    }
}

/// Region proposal network ([Ren et al. 2015](https://arxiv.org/abs/1506.01497)), one head shared by all levels.
#[derive(Module, Debug)]
pub struct Rpn {
    /// The convolutions.
    pub head: RpnHead,
    #[module(skip)]
    anchors: AnchorGenerator,
    #[module(skip)]
    config: RpnConfig,
}

impl RpnConfig {
    /// A network over levels of `channels` channels, with random weights.
    pub fn init(&self, channels: usize, device: &Device) -> Rpn {
        Rpn {
            head: RpnHead::init(channels, self, device),
            anchors: AnchorGenerator::new(&self.anchors, self.conventions.anchors),
            config: self.clone(),
        }
    }
}

impl Rpn {
    /// Proposals to train the ROI heads on, and the RPN's own losses. No gradient flows through the proposals. There is a generator for each image.
    pub fn forward_train<D: Draw>(
        &self,
        pyramid: &Pyramid,
        sizes: &[ImageSize],
        targets: &[Targets],
        rngs: &mut [D],
    ) -> (Vec<Proposals>, RpnLosses) {
        let predictions = self.head.forward(pyramid);
        let anchors = self.anchors(pyramid);
        let proposals = self.propose(&predictions, &anchors, sizes, self.config.train_proposals);
        let losses = loss::rpn_losses(&predictions, &anchors, (targets, sizes), &self.config, rngs);
        (proposals, losses)
    }

    /// Proposals for images without targets.
    pub fn detect(&self, pyramid: &Pyramid, sizes: &[ImageSize]) -> Vec<Proposals> {
        let predictions = self.head.forward(pyramid);
        self.propose(&predictions, &self.anchors(pyramid), sizes, self.config.test_proposals)
    }

    /// The anchors of all levels in the order of the predictions; the same for every image of the batch.
    fn anchors(&self, pyramid: &Pyramid) -> Vec<BBox> {
        let finest = &pyramid.levels[0];
        // Batches are padded to whole cells of the finest level.
        let padded = [finest.height(), finest.width()].map(|cells| cells * pyramid.strides[0]);
        let levels = pyramid.levels.iter().enumerate();
        levels.flat_map(|(level, map)| self.anchors.on_level(level, [map.height(), map.width()], padded)).collect()
    }

    fn propose(
        &self,
        predictions: &RpnPredictions,
        anchors: &[BBox],
        sizes: &[ImageSize],
        limits: ProposalConfig,
    ) -> Vec<Proposals> {
        let (objectness, deltas) = predictions.to_host();
        sizes
            .par_iter()
            .enumerate()
            .map(|(image, &size)| {
                let of_image = image * anchors.len()..(image + 1) * anchors.len();
                let image_predictions = ImagePredictions {
                    anchors,
                    objectness: &objectness[of_image.clone()],
                    deltas: &deltas[of_image.start * 4..of_image.end * 4],
                    level_lens: &predictions.level_lens,
                };
                select_proposals(&image_predictions, size, limits, &self.config)
            })
            .collect()
    }
}
