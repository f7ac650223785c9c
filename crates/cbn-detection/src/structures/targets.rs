use super::{BBox, InstanceMask, PaddedImages};

/// What one training image shows. Crowd regions are left out: they are neither objects nor background.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Targets {
    /// Boxes in network pixels.
    pub boxes: Vec<BBox>,
    /// Class of each box, `0..num_classes`, background not counted.
    pub labels: Vec<usize>,
    /// One mask per box at network scale, when masks were asked for.
    pub masks: Option<Vec<InstanceMask>>,
}

impl Targets {
    /// Number of objects.
    pub fn len(&self) -> usize {
        self.boxes.len()
    }

    /// True if the image shows no object.
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }
}

/// One process's images of a training step with their targets, in the same order.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainBatch {
    /// The images, padded to one size.
    pub images: PaddedImages,
    /// Targets of each image.
    pub targets: Vec<Targets>,
    /// COCO id of each image.
    pub image_ids: Vec<u64>,
    /// Place of each image among those of all processes, ascending.
    pub places: Vec<usize>,
}
