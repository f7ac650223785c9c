use serde::{Deserialize, Serialize};

/// Height and width of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageSize {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl ImageSize {
    /// A size of `height` rows and `width` columns.
    pub const fn new(height: usize, width: usize) -> Self {
        Self { height, width }
    }

    /// Number of pixels.
    pub const fn num_pixels(self) -> usize {
        self.height * self.width
    }
}

impl std::fmt::Display for ImageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// What a box's numbers mean when it leaves or enters an image of another size.
///
/// The released recipes count pixels: a box from `x1` to `x2` covers the columns `x1, x1 + 1, .., x2` and is `x2 - x1 + 1`
/// wide. Here such a box is kept as the area that it covers, `x1` to `x2 + 1`, a [`BBox`] like any other: width, area, IoU,
/// suppression, deltas, mirroring and ROI Align are then the same arithmetic. Scaling and clipping are not, because they act on the last
/// pixel's column and not on its right edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxConvention {
    /// Edges are scaled, and clipped to `0..=W`.
    #[default]
    Continuous,
    /// First and last pixel are scaled, and clipped to `0..=W - 1`.
    LegacyInclusive,
}

impl BoxConvention {
    /// The box after the image is stretched by `sx` horizontally and `sy` vertically.
    pub fn scale(self, bbox: &BBox, sx: f32, sy: f32) -> BBox {
        match self {
            Self::Continuous => bbox.scale(sx, sy),
            Self::LegacyInclusive => BBox {
                x1: bbox.x1 * sx,
                y1: bbox.y1 * sy,
                x2: (bbox.x2 - 1.0) * sx + 1.0,
                y2: (bbox.y2 - 1.0) * sy + 1.0,
            },
        }
    }

    /// A found box in the pixels of its original image, which is `sx` and `sy` times smaller.
    pub fn unscale(self, bbox: &BBox, [sx, sy]: [f32; 2]) -> BBox {
        self.scale(bbox, 1.0 / sx, 1.0 / sy)
    }

    /// A found box back in its original image of `size`, which is `sx` and `sy` times smaller. Only continuous edges are clipped:
    /// the released code leaves the last pixel where the division puts it.
    pub fn to_original(self, bbox: &BBox, scale: [f32; 2], size: ImageSize) -> BBox {
        let scaled = self.unscale(bbox, scale);
        match self {
            Self::Continuous => scaled.clip(size),
            Self::LegacyInclusive => scaled,
        }
    }

    /// Whether an annotated box, in original pixels, is an object to learn from; the released code leaves out boxes that are less than a pixel wide or high.
    pub fn is_object(self, bbox: &BBox) -> bool {
        match self {
            Self::Continuous => !bbox.is_empty(),
            Self::LegacyInclusive => bbox.width() >= 1.0 && bbox.height() >= 1.0,
        }
    }

    /// Whether a box clipped to an image is kept whose shorter side must measure `least` pixels; the released code has no such limit.
    pub fn is_large(self, bbox: &BBox, least: f32) -> bool {
        let least = match self {
            Self::Continuous => least,
            Self::LegacyInclusive => 0.0,
        };
        bbox.width() >= least && bbox.height() >= least
    }

    /// The box moved into an image of `size`. A box outside it is empty in the first convention and at least a part of a pixel
    /// of the border in the second.
    pub fn clip(self, bbox: &BBox, size: ImageSize) -> BBox {
        match self {
            Self::Continuous => bbox.clip(size),
            Self::LegacyInclusive => {
                let (width, height) = (size.width as f32, size.height as f32);
                BBox {
                    x1: bbox.x1.clamp(0.0, width - 1.0),
                    y1: bbox.y1.clamp(0.0, height - 1.0),
                    x2: bbox.x2.clamp(1.0, width),
                    y2: bbox.y2.clamp(1.0, height),
                }
            }
        }
    }
}

/// An axis-aligned box in continuous pixel coordinates: the pixel in column 0 covers `0.0..1.0`.
///
/// A box that lies in an image of width W has `0 <= x1 < x2 <= W`; the same holds for y. Which image (original or network
/// pixels) is said where a box is stored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BBox {
    /// Left edge.
    pub x1: f32,
    /// Top edge.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Bottom edge.
    pub y2: f32,
}

impl BBox {
    /// The box with these edges.
    pub const fn new(x1: f32, y1: f32, x2: f32, y2: f32) -> Self {
        Self { x1, y1, x2, y2 }
    }

    /// Reads COCO's `[x, y, width, height]`.
    pub fn from_xywh([x, y, width, height]: [f64; 4]) -> Self {
        Self::new(x as f32, y as f32, (x + width) as f32, (y + height) as f32)
    }

    /// COCO's `[x, y, width, height]`; the differences are exact.
    pub fn to_xywh(self) -> [f64; 4] {
        let [x1, y1, x2, y2] = self.to_array().map(f64::from);
        [x1, y1, x2 - x1, y2 - y1]
    }

    /// `[x1, y1, x2, y2]`.
    pub const fn to_array(self) -> [f32; 4] {
        [self.x1, self.y1, self.x2, self.y2]
    }

    /// `x2 - x1`.
    pub fn width(&self) -> f32 {
        self.x2 - self.x1
    }

    /// `y2 - y1`.
    pub fn height(&self) -> f32 {
        self.y2 - self.y1
    }

    /// Width times height; 0 for a box whose edges are the wrong way round.
    pub fn area(&self) -> f32 {
        self.width().max(0.0) * self.height().max(0.0)
    }

    /// True if the box covers no area, or an edge is not a number.
    pub fn is_empty(&self) -> bool {
        !(self.width() > 0.0 && self.height() > 0.0)
    }

    /// Area that both boxes cover.
    pub fn intersection(&self, other: &Self) -> f32 {
        let common = Self {
            x1: self.x1.max(other.x1),
            y1: self.y1.max(other.y1),
            x2: self.x2.min(other.x2),
            y2: self.y2.min(other.y2),
        };
        common.area()
    }

    /// Intersection over union; 0 when the union is empty.
    pub fn iou(&self, other: &Self) -> f32 {
        let intersection = self.intersection(other);
        let union = self.area() + other.area() - intersection;
        if union > 0.0 { intersection / union } else { 0.0 }
    }

    /// The part of the box inside an image of `size`; empty if there is none.
    pub fn clip(&self, size: ImageSize) -> Self {
        let (width, height) = (size.width as f32, size.height as f32);
        Self {
            x1: self.x1.clamp(0.0, width),
            y1: self.y1.clamp(0.0, height),
            x2: self.x2.clamp(0.0, width),
            y2: self.y2.clamp(0.0, height),
        }
    }

    /// The box after the image is stretched by `sx` horizontally and `sy` vertically.
    pub fn scale(&self, sx: f32, sy: f32) -> Self {
        Self { x1: self.x1 * sx, y1: self.y1 * sy, x2: self.x2 * sx, y2: self.y2 * sy }
    }

    /// The box after an image of `image_width` columns is mirrored left to right.
    pub fn flip_horizontal(&self, image_width: usize) -> Self {
        let width = image_width as f32;
        Self { x1: width - self.x2, x2: width - self.x1, ..*self }
    }

    /// The box after an image of `image_height` rows is mirrored top to bottom.
    pub fn flip_vertical(&self, image_height: usize) -> Self {
        let height = image_height as f32;
        Self { y1: height - self.y2, y2: height - self.y1, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn width_has_no_plus_one() {
        let bbox = BBox::from_xywh([2.0, 3.0, 4.0, 5.0]);
        assert_eq!(bbox, BBox::new(2.0, 3.0, 6.0, 8.0));
        assert_eq!((bbox.width(), bbox.height(), bbox.area()), (4.0, 5.0, 20.0));
    }

    #[test]
    fn iou_of_half_shifted_squares_is_one_third() {
        let a = BBox::new(0.0, 0.0, 2.0, 2.0);
        assert_eq!(a.iou(&BBox::new(1.0, 0.0, 3.0, 2.0)), 1.0 / 3.0);
        assert_eq!(a.iou(&a), 1.0);
        assert_eq!(a.iou(&BBox::new(2.0, 0.0, 4.0, 2.0)), 0.0);
        let point = BBox::new(1.0, 1.0, 1.0, 1.0);
        assert_eq!(point.iou(&point), 0.0);
    }

    #[test]
    fn clip_of_a_box_outside_is_empty() {
        let size = ImageSize::new(10, 20);
        assert_eq!(BBox::new(-5.0, -1.0, 25.0, 5.0).clip(size), BBox::new(0.0, 0.0, 20.0, 5.0));
        assert!(BBox::new(21.0, 2.0, 30.0, 5.0).clip(size).is_empty());
    }

    #[test]
    fn a_box_with_nan_is_empty() {
        assert!(BBox::new(f32::NAN, 0.0, 1.0, 1.0).is_empty());
    }

    proptest! {
        #[test]
        fn flipping_twice_restores_whole_pixel_boxes(x in 0u16..500, y in 0u16..500, w in 1u16..500, h in 1u16..500) {
            let bbox = BBox::from_xywh([x.into(), y.into(), w.into(), h.into()]);
            prop_assert_eq!(bbox.flip_horizontal(1000).flip_horizontal(1000), bbox);
            prop_assert_eq!(bbox.flip_vertical(1000).flip_vertical(1000), bbox);
        }

        #[test]
        fn xywh_round_trips(x in 0u16..500, y in 0u16..500, w in 1u16..500, h in 1u16..500) {
            let xywh = [x.into(), y.into(), w.into(), h.into()];
            prop_assert_eq!(BBox::from_xywh(xywh).to_xywh(), xywh);
        }
    }
}
