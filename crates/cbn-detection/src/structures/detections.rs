use super::BBox;

/// Mask probabilities of one detection on a square grid laid over its box.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftMask {
    /// Cells along each side of the grid.
    pub side: usize,
    /// `side * side` probabilities, row by row.
    pub probabilities: Vec<f32>,
}

/// What the detector found in one image, best score first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detections {
    /// Boxes in network pixels of this image.
    pub boxes: Vec<BBox>,
    /// Confidence of each box, falling.
    pub scores: Vec<f32>,
    /// Class of each box, `0..num_classes`, background not counted.
    pub labels: Vec<usize>,
    /// One mask per box, when the detector has a mask head.
    pub masks: Option<Vec<SoftMask>>,
}

impl Detections {
    /// Number of detections.
    pub fn len(&self) -> usize {
        self.boxes.len()
    }

    /// True if nothing was found.
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }
}
