use burn::tensor::{Device, Tensor, TensorData};
use cbn::FeatureMap;

use super::ImageSize;

/// Images on the host, normalised and zero-padded at the bottom and the right to one size.
#[derive(Debug, Clone, PartialEq)]
pub struct PaddedImages {
    /// RGB, `[B, H, W, 3]`, row-major.
    pub pixels: Vec<f32>,
    /// H and W of `pixels`.
    pub padded: ImageSize,
    /// Size of each image without its padding, in network pixels.
    pub sizes: Vec<ImageSize>,
    /// Network pixels per original pixel of each image, horizontally and vertically.
    pub scales: Vec<[f32; 2]>,
}

impl PaddedImages {
    /// Number of images, B.
    pub fn batch(&self) -> usize {
        self.sizes.len()
    }

    /// Each image mirrored left to right within its own columns; the padding stays where it is.
    #[must_use]
    pub fn flip_horizontal(&self) -> Self {
        let mut flipped = self.clone();
        let canvases = flipped.pixels.chunks_exact_mut((self.padded.num_pixels() * 3).max(1));
        for (canvas, size) in canvases.zip(&self.sizes) {
            for row in canvas.chunks_exact_mut(self.padded.width * 3).take(size.height) {
                row[..size.width * 3].as_chunks_mut::<3>().0.reverse();
            }
        }
        flipped
    }

    /// Copies the images to where the network runs.
    pub fn to_device(&self, device: &Device) -> ImageBatch {
        let shape = [self.batch(), self.padded.height, self.padded.width, 3];
        let pixels = Tensor::from_data(TensorData::new(self.pixels.clone(), shape), device);
        ImageBatch { pixels: FeatureMap::from_nhwc(pixels), sizes: self.sizes.clone(), scales: self.scales.clone() }
    }
}

/// [`PaddedImages`] where the network runs.
#[derive(Debug, Clone)]
pub struct ImageBatch {
    /// RGB, `[B, H, W, 3]`.
    pub pixels: FeatureMap,
    /// Size of each image without its padding, in network pixels.
    pub sizes: Vec<ImageSize>,
    /// Network pixels per original pixel of each image, horizontally and vertically.
    pub scales: Vec<[f32; 2]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_mirrored_within_their_own_columns() {
        let pixel = |level: u8| [f32::from(level), f32::from(level) + 0.25, f32::from(level) + 0.5];
        let pixels = |levels: [u8; 12]| levels.into_iter().flat_map(pixel).collect();
        let images = PaddedImages {
            pixels: pixels([1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]),
            padded: ImageSize::new(2, 3),
            sizes: vec![ImageSize::new(2, 3), ImageSize::new(1, 2)],
            scales: vec![[1.0; 2]; 2],
        };
        let flipped = images.flip_horizontal();
        assert_eq!(flipped.pixels, pixels([3, 2, 1, 6, 5, 4, 8, 7, 0, 0, 0, 0]) as Vec<f32>);
        assert_eq!(flipped.flip_horizontal(), images);
    }

    #[test]
    fn pixels_keep_their_layout_on_the_device() {
        let images = PaddedImages {
            pixels: (0..36).map(|value| value as f32).collect(),
            padded: ImageSize::new(2, 3),
            sizes: vec![ImageSize::new(2, 3), ImageSize::new(1, 2)],
            scales: vec![[1.0; 2]; 2],
        };
        let batch = images.to_device(&Device::default());
        assert_eq!(batch.pixels.dims(), [2, 2, 3, 3]);
        assert_eq!(batch.sizes, images.sizes);
        assert_eq!(batch.pixels.into_nhwc().into_data().try_to_vec::<f32>().unwrap(), images.pixels);
    }
}
