use super::WeightLayout;

/// A tensor whose first axis counts classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClassTensor {
    /// A logit a class.
    Logits,
    /// Four deltas a class.
    Deltas,
    /// A mask a class.
    Masks,
}

/// Where a tensor has the rows of the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Background {
    First,
    Last,
    /// Nothing is predicted for it.
    Absent,
}

impl ClassTensor {
    /// What the tensor at a module path counts, if it counts classes.
    pub(super) fn of(path: &[String]) -> Option<Self> {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["roi", "boxes", "head", "class_logits", _] => Some(Self::Logits),
            ["roi", "boxes", "head", "deltas", _] => Some(Self::Deltas),
            ["roi", "mask", "head", "logits", _] => Some(Self::Masks),
            _ => None,
        }
    }

    fn rows_per_class(self) -> usize {
        if self == Self::Deltas { 4 } else { 1 }
    }

    fn background(self, layout: WeightLayout) -> Background {
        match (layout, self) {
            // Ours, and what torchvision and mmdetection 0 call class 0.
            (WeightLayout::Cbn | WeightLayout::Torchvision | WeightLayout::Mmdet, _) => Background::First,
            (WeightLayout::Mmdet2 | WeightLayout::Detectron2, Self::Logits) => Background::Last,
            (WeightLayout::Mmdet2 | WeightLayout::Detectron2, _) => Background::Absent,
        }
    }

    /// Rows of `num_classes` classes in a layout.
    pub(super) fn num_rows(self, layout: WeightLayout, num_classes: usize) -> usize {
        let with_background = usize::from(self.background(layout) != Background::Absent);
        (num_classes + with_background) * self.rows_per_class()
    }

    /// Classes that so many rows of a layout stand for, background not counted; none if that is no whole number.
    pub(super) fn num_classes(self, layout: WeightLayout, num_rows: usize) -> Option<usize> {
        let per_class = self.rows_per_class();
        let with_background = usize::from(self.background(layout) != Background::Absent);
        if num_rows.is_multiple_of(per_class) { (num_rows / per_class).checked_sub(with_background) } else { None }
    }

    /// A layout's values in our order: background first, with rows of zeros where the layout has none.
    pub(super) fn to_ours(self, layout: WeightLayout, values: &[f32], num_classes: usize) -> Vec<f32> {
        let of_class = values.len() / self.num_rows(layout, num_classes) * self.rows_per_class();
        match self.background(layout) {
            Background::First => values.to_vec(),
            Background::Last => {
                let (objects, background) = values.split_at(values.len() - of_class);
                [background, objects].concat()
            }
            Background::Absent => [vec![0.0; of_class].as_slice(), values].concat(),
        }
    }

    /// Our values in a layout's order.
    pub(super) fn to_theirs(self, layout: WeightLayout, values: &[f32], num_classes: usize) -> Vec<f32> {
        let of_class = values.len() / (num_classes + 1);
        let (background, objects) = values.split_at(of_class);
        match self.background(layout) {
            Background::First => values.to_vec(),
            Background::Last => [objects, background].concat(),
            Background::Absent => objects.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_moves_to_the_front() {
        // Two classes, one input: detectron2 has logits [a, b, background] and deltas of a and b alone.
        let logits = ClassTensor::Logits.to_ours(WeightLayout::Detectron2, &[1.0, 2.0, 9.0], 2);
        assert_eq!(logits, [9.0, 1.0, 2.0]);
        let theirs = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let deltas = ClassTensor::Deltas.to_ours(WeightLayout::Detectron2, &theirs, 2);
        assert_eq!(deltas, [&[0.0; 4][..], &theirs].concat());
        assert_eq!(ClassTensor::Deltas.to_theirs(WeightLayout::Detectron2, &deltas, 2), theirs);
        assert_eq!(ClassTensor::Logits.to_theirs(WeightLayout::Mmdet2, &logits, 2), [1.0, 2.0, 9.0]);
        assert_eq!(ClassTensor::Logits.to_ours(WeightLayout::Mmdet, &logits, 2), logits);
    }

    #[test]
    fn rows_tell_the_number_of_classes() {
        assert_eq!(ClassTensor::Deltas.num_classes(WeightLayout::Torchvision, 364), Some(90));
        assert_eq!(ClassTensor::Deltas.num_classes(WeightLayout::Detectron2, 320), Some(80));
        assert_eq!(ClassTensor::Deltas.num_classes(WeightLayout::Detectron2, 321), None);
        assert_eq!(ClassTensor::Masks.num_rows(WeightLayout::Mmdet, 80), 81);
    }
}
