use burn::{module::Module, tensor::Device};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{backbone::ResNet, config::DetectorConfig, init::materialize, neck::Fpn, roi::RoiHeads, rpn::Rpn};
use crate::ops::Draw;
use crate::structures::{Detections, ImageBatch, LossCounts, Losses, Proposals, Pyramid, Targets};

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
        materialize(Self::init_to_load(config, device))
    }

    /// The same, for weights that come from elsewhere: each is drawn when it is first used without having been loaded.
    ///
    /// # Panics
    ///
    /// As [`Self::init`].
    pub fn init_to_load(config: &DetectorConfig, device: &Device) -> Self {
        if let Err(error) = config.validate() {
            panic!("{error}");
        }
        Self {
            backbone: config.backbone.init(device),
            neck: config.neck.init(&config.backbone.depth.out_channels(), device),
            rpn: config.rpn.init(config.neck.channels, device),
            roi: RoiHeads::init(config, device),
        }
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
        self.forward_train_through(images, targets, draws, |proposals| proposals)
    }

    /// The same on proposals that someone else chooses: `exchange` is given the RPN's, of each image, and answers with those that the ROI heads get.
    /// Two programs whose proposals tie within rounding have the same regions behind it, and can be compared.
    ///
    /// # Panics
    ///
    /// As [`Self::forward_train`].
    pub fn forward_train_through<D: Draw>(
        &self,
        images: &ImageBatch,
        targets: &[Targets],
        draws: &mut [D],
        exchange: impl FnOnce(Vec<Proposals>) -> Vec<Proposals>,
    ) -> Losses {
        assert_eq!(images.sizes.len(), targets.len(), "one Targets per image");
        assert_eq!(draws.len(), targets.len(), "one Draw per image");
        let pyramid = self.features(images);
        let (proposals, rpn) = self.rpn.forward_train(&pyramid, &images.sizes, targets, draws);
        let proposals = exchange(proposals);
        assert_eq!(proposals.len(), targets.len(), "one Proposals per image");
        let roi = self.roi.forward_train(&pyramid, proposals, targets, draws);
        Losses {
            rpn_objectness: rpn.objectness,
            rpn_box: rpn.deltas,
            roi_class: roi.boxes.class,
            roi_box: roi.boxes.deltas,
            roi_mask: roi.mask,
            counts: LossCounts { anchors: rpn.count, rois: roi.num_rois, positives: roi.num_positives },
            class_accuracy: roi.boxes.class_accuracy,
        }
    }

    /// What is in the images, in network pixels.
    pub fn detect(&self, images: &ImageBatch) -> Vec<Detections> {
        let pyramid = self.features(images);
        let proposals = self.rpn.detect(&pyramid, &images.sizes);
        let images: Vec<_> = images.sizes.iter().copied().zip(images.scales.iter().copied()).collect();
        self.roi.detect(&pyramid, &proposals, &images)
    }

    /// What is in the images, in network pixels, from each image and its mirror image together (test-time augmentation).
    ///
    /// `mirrored` holds the same images mirrored left to right, see [`crate::structures::PaddedImages::flip_horizontal`]. Both are searched for
    /// objects; what the boxes of the second say is mirrored back, and all that scores above the threshold in either goes through one suppression of
    /// duplicates, where the better of two similar boxes stays. A mask is the mean of its probabilities in both. (detectron2's
    /// `GeneralizedRCNNWithTTA` does the same but suppresses duplicates within each look first; mmdetection averages boxes of common proposals.)
    ///
    /// # Panics
    ///
    /// If the two batches are not of the same sizes.
    pub fn detect_with_mirror(&self, images: &ImageBatch, mirrored: &ImageBatch) -> Vec<Detections> {
        assert_eq!(images.sizes, mirrored.sizes, "a mirror image has its image's size");
        let pyramids = [images, mirrored].map(|images| self.features(images));
        let proposals = [0, 1].map(|look| self.rpn.detect(&pyramids[look], &images.sizes));
        let images: Vec<_> = images.sizes.iter().copied().zip(images.scales.iter().copied()).collect();
        self.roi.detect_with_mirror(&pyramids, &proposals, &images)
    }

    fn features(&self, images: &ImageBatch) -> Pyramid {
        self.neck.forward(&self.backbone.forward(&images.pixels))
    }
}
