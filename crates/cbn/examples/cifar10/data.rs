//! CIFAR-10's binary files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const IMAGE: usize = 3 * PLANE;
/// One byte of label, then the planes of red, green and blue.
const RECORD: usize = 1 + IMAGE;
const NUM_CLASSES: u8 = 10;
/// Border of the random crop, in pixels.
const CROP_PADDING: usize = 4;
/// Of the training images, in units of 255.
const MEAN: [f32; 3] = [0.4914, 0.4822, 0.4465];
const STD: [f32; 3] = [0.2470, 0.2435, 0.2616];

/// Images and labels, as the files hold them.
pub struct Cifar10(Vec<u8>);

impl Cifar10 {
    /// The 50,000 training images, or the first `limit` of them.
    pub fn train(folder: &Path, limit: Option<usize>) -> Result<Self> {
        let mut records = Vec::new();
        for number in 1..=5 {
            if limit.is_none_or(|limit| records.len() < limit * RECORD) {
                records.extend(read(&folder.join(format!("data_batch_{number}.bin")))?);
            }
        }
        records.truncate(limit.map_or(records.len(), |limit| limit * RECORD));
        Ok(Self(records))
    }

    /// The 10,000 test images.
    pub fn test(folder: &Path) -> Result<Self> {
        Ok(Self(read(&folder.join("test_batch.bin"))?))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len() / RECORD
    }

    /// The labels of a batch, `[B]`.
    pub fn labels(&self, indices: &[usize], device: &Device) -> Tensor<1, Int> {
        let labels: Vec<i32> = indices.iter().map(|&index| i32::from(self.0[index * RECORD])).collect();
        Tensor::from_data(TensorData::new(labels, [indices.len()]), device)
    }

    /// The images of a batch, `[B, 3, 32, 32]`, each channel with mean 0 and variance 1 over the training images.
    pub fn images(&self, indices: &[usize], device: &Device) -> Tensor<4> {
        self.batch(indices, device, || (CROP_PADDING, CROP_PADDING, false))
    }

    /// The same, each cropped at a random place out of its padded self and flipped half of the time.
    pub fn augmented(&self, indices: &[usize], rng: &mut ChaCha8Rng, device: &Device) -> Tensor<4> {
        let places = 0..=2 * CROP_PADDING;
        self.batch(indices, device, || {
            (rng.random_range(places.clone()), rng.random_range(places.clone()), rng.random_bool(0.5))
        })
    }

    /// `crop` draws the top, the left and the flip of every image; the border is 0 after normalisation.
    fn batch(&self, indices: &[usize], device: &Device, mut crop: impl FnMut() -> (usize, usize, bool)) -> Tensor<4> {
        let mut pixels = vec![0.0; indices.len() * IMAGE];
        for (&index, image) in indices.iter().zip(pixels.chunks_exact_mut(IMAGE)) {
            let source = &self.0[index * RECORD + 1..][..IMAGE];
            let (top, left, flipped) = crop();
            for (at, pixel) in image.iter_mut().enumerate() {
                let (channel, row, column) = (at / PLANE, at % PLANE / SIDE, at % SIDE);
                let column = if flipped { SIDE - 1 - column } else { column };
                // Before the image's edge these wrap around to huge numbers.
                let y = (row + top).wrapping_sub(CROP_PADDING);
                let x = (column + left).wrapping_sub(CROP_PADDING);
                if y < SIDE && x < SIDE {
                    let value = f32::from(source[channel * PLANE + y * SIDE + x]) / 255.0;
                    *pixel = (value - MEAN[channel]) / STD[channel];
                }
            }
        }
        Tensor::from_data(TensorData::new(pixels, [indices.len(), 3, SIDE, SIDE]), device)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let advice = "give the folder of CIFAR-10's binary version (cs.toronto.edu/~kriz/cifar.html), with data_batch_1.bin \
                  to data_batch_5.bin and test_batch.bin";
    let records = fs::read(path).with_context(|| format!("cannot read {}: {advice}", path.display()))?;
    ensure!(
        !records.is_empty() && records.len().is_multiple_of(RECORD),
        "{}: {} bytes are no whole number of {RECORD}-byte records: is the download complete? {advice}",
        path.display(),
        records.len()
    );
    for (number, record) in records.chunks_exact(RECORD).enumerate() {
        ensure!(
            record[0] < NUM_CLASSES,
            "{}: record {number} has label {}, labels are 0 to 9: this is not CIFAR-10; {advice}",
            path.display(),
            record[0]
        );
    }
    Ok(records)
}
