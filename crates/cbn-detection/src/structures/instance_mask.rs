use super::{BBox, ImageSize};

/// The pixels of one object: a binary mask cropped to the object's bounding rectangle.
///
/// Pixels outside the rectangle are 0. The size of the image is kept because sampling next to the image's border clamps
/// to the border, while sampling next to the rectangle sees zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceMask {
    /// Column of the rectangle's left edge.
    pub left: usize,
    /// Row of the rectangle's top edge.
    pub top: usize,
    /// Columns of the rectangle; 0 for a mask without pixels.
    pub width: usize,
    /// Rows of the rectangle; 0 for a mask without pixels.
    pub height: usize,
    /// Size of the image that the mask belongs to.
    pub image: ImageSize,
    /// 0 or 1 per pixel of the rectangle, row by row.
    bits: Vec<u8>,
}

impl InstanceMask {
    /// Crops a full-image mask (row by row, non-zero is object) to its bounding rectangle.
    ///
    /// # Panics
    ///
    /// If `pixels` does not hold one value per image pixel.
    pub fn from_full(image: ImageSize, pixels: &[u8]) -> Self {
        assert_eq!(pixels.len(), image.num_pixels(), "a full mask has one value per pixel of the {image} image");
        Self::from_window(image, (0, 0), image, pixels)
    }

    /// Crops a mask known on a window of the image only; everything outside the window is 0.
    ///
    /// `origin` is the (column, row) of the window's top left corner.
    ///
    /// # Panics
    ///
    /// If the window leaves the image or `pixels` does not hold one value per window pixel.
    pub fn from_window(image: ImageSize, origin: (usize, usize), window: ImageSize, pixels: &[u8]) -> Self {
        let (left, top) = origin;
        assert!(left + window.width <= image.width && top + window.height <= image.height, "window leaves the image");
        assert_eq!(pixels.len(), window.num_pixels(), "a mask window has one value per pixel");
        let Some((rows, columns)) = occupied(window, pixels) else {
            return Self { left, top, width: 0, height: 0, image, bits: Vec::new() };
        };
        let bits = rows
            .clone()
            .flat_map(|row| &pixels[row * window.width..][columns.clone()])
            .map(|&pixel| u8::from(pixel != 0))
            .collect();
        Self {
            left: left + columns.start,
            top: top + rows.start,
            width: columns.len(),
            height: rows.len(),
            image,
            bits,
        }
    }

    /// 0 or 1 per pixel of the rectangle, row by row.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// Number of pixels of the object.
    pub fn area_px(&self) -> usize {
        self.bits.iter().map(|&bit| usize::from(bit)).sum()
    }

    /// The mask pasted into its image: one value per image pixel, row by row.
    pub fn to_full(&self) -> Vec<u8> {
        let mut pixels = vec![0; self.image.num_pixels()];
        for row in 0..self.height {
            let start = (self.top + row) * self.image.width + self.left;
            pixels[start..start + self.width].copy_from_slice(&self.bits[row * self.width..][..self.width]);
        }
        pixels
    }

    /// The mask after its image is mirrored left to right.
    pub fn flip_horizontal(&self) -> Self {
        let mut flipped = self.clone();
        flipped.left = self.image.width - self.left - self.width;
        if self.width > 0 {
            flipped.bits.chunks_exact_mut(self.width).for_each(<[u8]>::reverse);
        }
        flipped
    }

    /// The mask after its image is mirrored top to bottom.
    pub fn flip_vertical(&self) -> Self {
        let mut flipped = self.clone();
        flipped.top = self.image.height - self.top - self.height;
        if self.width > 0 {
            flipped.bits = self.bits.chunks_exact(self.width).rev().flatten().copied().collect();
        }
        flipped
    }

    /// Training target of the mask head: the mask under `bbox` on a grid of `side` x `side` cells, 0 or 1 per cell.
    ///
    /// Each cell averages a grid of `ceil(extent / side)` bilinear samples per axis (ROI Align with `aligned` and adaptive
    /// sampling) and is 1 if the mean is at least 0.5, as detectron2's `BitMasks.crop_and_resize` (v0.6,
    /// `structures/masks.py`). Mean and bilinear weights are products of one factor per axis, so two small matrix
    /// products replace the four-fold loop.
    pub fn crop_and_resize(&self, bbox: &BBox, side: usize) -> Vec<f32> {
        let rows = AxisWeights::of_cells(bbox.y1, bbox.y2, side, self.image.height);
        let columns = AxisWeights::of_cells(bbox.x1, bbox.x2, side, self.image.width);
        // Rounded to f32 first: a mean of exactly one half must not fall to the rounding of the sum.
        self.cell_means(&rows, &columns).into_iter().map(|mean| f32::from(mean as f32 >= 0.5)).collect()
    }

    /// 0 or 1 at a pixel of the image.
    pub(super) fn bit(&self, row: usize, column: usize) -> u8 {
        let inside =
            (self.top..self.top + self.height).contains(&row) && (self.left..self.left + self.width).contains(&column);
        if inside { self.bits[(row - self.top) * self.width + column - self.left] } else { 0 }
    }

    /// The weighted mean of the mask in every cell, row by row.
    pub(super) fn cell_means(&self, rows: &[AxisWeights], columns: &[AxisWeights]) -> Vec<f64> {
        let mut means = Vec::with_capacity(rows.len() * columns.len());
        let mut blended = vec![0.0_f64; self.width];
        for row_weights in rows {
            blended.fill(0.0);
            for (row, weight) in row_weights.inside(self.top, self.height) {
                let bits = &self.bits[row * self.width..][..self.width];
                blended.iter_mut().zip(bits).for_each(|(sum, &bit)| *sum += weight * f64::from(bit));
            }
            means.extend(columns.iter().map(|column_weights| {
                let parts =
                    column_weights.inside(self.left, self.width).map(|(column, weight)| weight * blended[column]);
                parts.sum::<f64>()
            }));
        }
        means
    }
}

/// Rows and columns that hold a non-zero pixel, as ranges.
fn occupied(size: ImageSize, pixels: &[u8]) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let (mut top, mut bottom, mut left, mut right) = (usize::MAX, 0, usize::MAX, 0);
    for row in 0..size.height {
        let line = &pixels[row * size.width..][..size.width];
        let Some(first) = line.iter().position(|&pixel| pixel != 0) else { continue };
        let last = line.iter().rposition(|&pixel| pixel != 0).expect("the line has a non-zero pixel");
        top = top.min(row);
        bottom = row + 1;
        left = left.min(first);
        right = right.max(last + 1);
    }
    (bottom > 0).then_some((top..bottom, left..right))
}

/// How much each pixel along one axis contributes to the mean of one cell.
pub(super) struct AxisWeights {
    start: usize,
    weights: Vec<f64>,
}

impl AxisWeights {
    /// The weights of `side` equal cells between `low` and `high` on an axis of `length` pixels.
    pub(super) fn of_cells(low: f32, high: f32, side: usize, length: usize) -> Vec<Self> {
        // Aligned ROI Align: the centre of pixel 0 lies at 0.5.
        let (low, high) = (f64::from(low) - 0.5, f64::from(high) - 0.5);
        let cell = (high - low) / side as f64;
        let num_samples = (cell.ceil() as usize).max(1);
        (0..side)
            .map(|index| {
                let samples = (0..num_samples)
                    .map(|sample| low + cell * (index as f64 + (sample as f64 + 0.5) / num_samples as f64));
                Self::of_samples(samples, num_samples, length)
            })
            .collect()
    }

    fn of_samples(samples: impl Iterator<Item = f64> + Clone, num_samples: usize, length: usize) -> Self {
        let last = length as f64 - 1.0;
        let share = 1.0 / num_samples as f64;
        // Samples beyond one pixel outside the image count as 0; nearer ones are clamped to the border.
        let clamped = samples.filter(|at| (-1.0..=length as f64).contains(at)).map(|at| at.clamp(0.0, last));
        let Some(first) = clamped.clone().next() else { return Self { start: 0, weights: Vec::new() } };
        let start = first as usize;
        let mut weights = Vec::new();
        for at in clamped {
            let (index, fraction) = (at as usize - start, at.fract());
            weights.resize(weights.len().max(index + 2), 0.0);
            weights[index] += share * (1.0 - fraction);
            weights[index + 1] += share * fraction;
        }
        Self { start, weights }
    }

    /// The pixels with a weight that lie in `origin..origin + length`, counted from `origin`.
    fn inside(&self, origin: usize, length: usize) -> impl Iterator<Item = (usize, f64)> {
        self.weights.iter().enumerate().filter_map(move |(offset, &weight)| {
            let index = (self.start + offset).checked_sub(origin)?;
            (index < length && weight != 0.0).then_some((index, weight))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pixels(rows: &[&str]) -> (ImageSize, Vec<u8>) {
        let size = ImageSize::new(rows.len(), rows[0].len());
        (size, rows.iter().flat_map(|row| row.bytes().map(|byte| u8::from(byte == b'#'))).collect())
    }

    #[test]
    fn the_crop_is_the_bounding_rectangle() {
        let (size, full) = pixels(&["......", "..#...", ".###..", "......"]);
        let mask = InstanceMask::from_full(size, &full);
        assert_eq!((mask.left, mask.top, mask.width, mask.height), (1, 1, 3, 2));
        assert_eq!(mask.bits(), [0, 1, 0, 1, 1, 1]);
        assert_eq!(mask.area_px(), 4);
        assert_eq!(mask.to_full(), full);
    }

    #[test]
    fn a_mask_without_pixels_is_all_zero() {
        let size = ImageSize::new(3, 4);
        let mask = InstanceMask::from_full(size, &[0; 12]);
        assert_eq!((mask.width, mask.height, mask.area_px()), (0, 0, 0));
        assert_eq!(mask.flip_horizontal().to_full(), [0; 12]);
        assert_eq!(mask.crop_and_resize(&BBox::new(0.0, 0.0, 4.0, 3.0), 2), [0.0; 4]);
    }

    #[test]
    fn a_grid_of_pixel_size_reads_the_pixels() {
        let (size, full) = pixels(&["....", ".##.", ".#..", "...."]);
        let mask = InstanceMask::from_full(size, &full);
        assert_eq!(mask.crop_and_resize(&BBox::new(1.0, 1.0, 3.0, 3.0), 2), [1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn a_full_image_is_one_up_to_the_border() {
        let size = ImageSize::new(5, 7);
        let mask = InstanceMask::from_full(size, &[1; 35]);
        assert_eq!(mask.crop_and_resize(&BBox::new(0.0, 0.0, 7.0, 5.0), 14), [1.0; 14 * 14]);
    }

    proptest! {
        #[test]
        fn flipping_twice_is_the_identity(full in proptest::collection::vec(0u8..2, 30)) {
            let mask = InstanceMask::from_full(ImageSize::new(5, 6), &full);
            prop_assert_eq!(mask.flip_horizontal().flip_horizontal(), mask.clone());
            let mirrored: Vec<u8> = full.chunks(6).flat_map(|row| row.iter().rev().copied()).collect();
            prop_assert_eq!(mask.flip_horizontal().to_full(), mirrored);
        }
    }
}
