use super::BBox;

/// Regions of one image that the RPN finds likely to hold an object, best score first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Proposals {
    /// Boxes in network pixels.
    pub boxes: Vec<BBox>,
    /// Objectness of each box.
    pub scores: Vec<f32>,
}

impl Proposals {
    /// Number of proposals.
    pub fn len(&self) -> usize {
        self.boxes.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }
}
