use super::BBox;

/// Mask probabilities of one detection on a square grid laid over its box.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftMask {
    /// Cells along each side of the grid.
    pub side: usize,
    /// `side * side` probabilities, row by row.
    pub probabilities: Vec<f32>,
}

impl SoftMask {
    /// The mask after its image is mirrored left to right.
    #[must_use]
    pub fn flip_horizontal(&self) -> Self {
        let mut flipped = self.clone();
        flipped.probabilities.chunks_exact_mut(self.side.max(1)).for_each(<[f32]>::reverse);
        flipped
    }

    /// The mean of two masks on the same box, cell by cell.
    ///
    /// # Panics
    ///
    /// If the grids are not of one size.
    #[must_use]
    pub fn mean(&self, other: &Self) -> Self {
        assert_eq!(self.side, other.side, "masks of two looks come from one detector");
        let cells = self.probabilities.iter().zip(&other.probabilities);
        Self { side: self.side, probabilities: cells.map(|(first, second)| (first + second) / 2.0).collect() }
    }
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

    /// The detections after an image of `image_width` columns is mirrored left to right.
    #[must_use]
    pub fn flip_horizontal(&self, image_width: usize) -> Self {
        Self {
            boxes: self.boxes.iter().map(|bbox| bbox.flip_horizontal(image_width)).collect(),
            masks: self.masks.as_ref().map(|masks| masks.iter().map(SoftMask::flip_horizontal).collect()),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detections_are_mirrored_with_their_masks() {
        let mask = SoftMask { side: 2, probabilities: vec![0.125, 0.25, 0.5, 1.0] };
        let found = Detections {
            boxes: vec![BBox::new(1.0, 2.0, 4.0, 8.0)],
            scores: vec![0.5],
            labels: vec![3],
            masks: Some(vec![mask.clone()]),
        };
        let flipped = found.flip_horizontal(10);
        assert_eq!((flipped.boxes[0], flipped.labels[0]), (BBox::new(6.0, 2.0, 9.0, 8.0), 3));
        let masks = flipped.masks.as_ref().unwrap();
        assert_eq!(masks[0].probabilities, [0.25, 0.125, 1.0, 0.5]);
        assert_eq!(mask.mean(&masks[0]).probabilities, [0.1875, 0.1875, 0.75, 0.75]);
        assert_eq!(flipped.flip_horizontal(10), found);
    }
}
