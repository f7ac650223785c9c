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
}

impl PaddedImages {
    /// Number of images, B.
    pub fn batch(&self) -> usize {
        self.sizes.len()
    }
}
