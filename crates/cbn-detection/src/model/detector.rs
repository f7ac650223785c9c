use burn::{module::Module, tensor::Device};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{backbone::ResNet, config::DetectorConfig, init::materialize, neck::Fpn, roi::RoiHeads, rpn::Rpn};
use crate::ops::Draw;
use crate::structures::{Detections, ImageBatch, LossCounts, Losses, Pyramid, Targets};

/// Faster R-CNN, or Mask R-CNN if the configuration has a mask head.
#[derive(Module, Debug)]
pub struct Detector {
    /// Features of the image at four scales.
    pub backbone: ResNet,
    /// The same width at five scales.
    pub neck: Fpn,
    /// Where objects may be.
    pub rpn: Rpn,
    /// What they are, where exactly, and which pixels.
    pub roi: RoiHeads,
}

impl Detector {
    /// A detector with random weights, which the device's seed decides.
    ///
    /// # Panics
    ///
    /// If the configuration is not valid; see [`DetectorConfig::validate`].
    pub fn init(config: &DetectorConfig, device: &Device) -> Self {
        if let Err(error) = config.validate() {
            panic!("{error}");
        }
        materialize(Self {
            backbone: config.backbone.init(device),
            neck: config.neck.init(&config.backbone.depth.out_channels(), device),
            rpn: config.rpn.init(config.neck.channels, device),
            roi: RoiHeads::init(config, device),
        })
    }

    /// The losses of one step. `rng` draws the anchors and proposals that the step learns from, with one number for each image: who has drawn n
    /// numbers before computes what a larger batch computes of its images from the n-th on.
    ///
    /// # Panics
    ///
    /// If there is not one `Targets` per image, a label is not below the number of classes, or masks are missing that the
    /// mask branch needs.
    pub fn forward_train<R: Rng>(&self, images: &ImageBatch, targets: &[Targets], rng: &mut R) -> Losses {
        // A generator for each image, so that what one draws does not depend on the others.
        let mut rngs: Vec<ChaCha8Rng> = targets.iter().map(|_| ChaCha8Rng::seed_from_u64(rng.next_u64())).collect();
        self.forward_train_on(images, targets, &mut rngs)
    }

    /// The same on samples that someone else chooses; there is one [`Draw`] for each image.
    ///
    /// # Panics
    ///
    /// As [`Self::forward_train`].
    pub fn forward_train_on<D: Draw>(&self, images: &ImageBatch, targets: &[Targets], draws: &mut [D]) -> Losses {
        assert_eq!(images.sizes.len(), targets.len(), "one Targets per image");
        assert_eq!(draws.len(), targets.len(), "one Draw per image");
        let pyramid = self.features(images);
        let (proposals, rpn) = self.rpn.forward_train(&pyramid, &images.sizes, targets, draws);
        let roi = self.roi.forward_train(&pyramid, proposals, targets, draws);
        Losses {
            rpn_objectness: rpn.objectness,
            rpn_box: rpn.deltas,
            roi_class: roi.boxes.class,
            roi_box: roi.boxes.deltas,
            roi_mask: roi.mask,
            counts: LossCounts { anchors: rpn.count, rois: roi.num_rois, positives: roi.num_positives },
        }
    }

    /// What is in the images, in network pixels.
    pub fn detect(&self, images: &ImageBatch) -> Vec<Detections> {
        let pyramid = self.features(images);
        let proposals = self.rpn.detect(&pyramid, &images.sizes);
        let images: Vec<_> = images.sizes.iter().copied().zip(images.scales.iter().copied()).collect();
        self.roi.detect(&pyramid, &proposals, &images)
    }

    fn features(&self, images: &ImageBatch) -> Pyramid {
        self.neck.forward(&self.backbone.forward(&images.pixels))
    }
}
