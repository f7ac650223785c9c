use std::path::Path;

use hotcoco::{Rle, Segmentation, mask};
use serde::{Deserialize, Serialize};

use super::EvalError;
use crate::files::write_atomically;
use crate::structures::{ImageSize, InstanceMask};

/// One entry of a COCO results file, in original pixels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CocoDetection {
    /// COCO id of the image.
    pub image_id: u64,
    /// COCO id of the category.
    pub category_id: u64,
    /// `[x, y, width, height]`. Files of masks may lack it; it then follows from the mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bbox: Option<[f64; 4]>,
    /// Confidence.
    pub score: f64,
    /// Mask as compressed RLE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segmentation: Option<Segmentation>,
}

impl CocoDetection {
    /// The mask, in an image of this size; none if there are only boxes.
    ///
    /// # Errors
    ///
    /// If the run lengths are malformed or made for another size.
    pub fn mask(&self, image: ImageSize) -> Result<Option<InstanceMask>, EvalError> {
        let Some(segmentation) = &self.segmentation else { return Ok(None) };
        let rle = segmentation.to_rle(image.height as u32, image.width as u32)?;
        if (rle.h as usize, rle.w as usize) != (image.height, image.width) {
            let found = ImageSize::new(rle.h as usize, rle.w as usize);
            return Err(EvalError::MaskSize { found, expected: image });
        }
        let columns = mask::decode(&rle);
        let (height, width) = (image.height, image.width);
        let rows: Vec<u8> = (0..height * width).map(|at| columns[at % width * height + at / width]).collect();
        Ok(Some(InstanceMask::from_full(image, &rows)))
    }
}

/// Reads a COCO results file.
///
/// # Errors
///
/// If the file cannot be read or is not a list of detections.
pub fn read_results(path: &Path) -> Result<Vec<CocoDetection>, EvalError> {
    let bytes = std::fs::read(path).map_err(|source| EvalError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| EvalError::NotResults { path: path.to_owned(), reason: error.to_string() })
}

/// Writes a COCO results file.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write_results(path: &Path, detections: &[CocoDetection]) -> Result<(), EvalError> {
    let write = || write_atomically(path, &serde_json::to_vec(detections)?);
    write().map_err(|source| EvalError::Write { path: path.to_owned(), source })
}

/// The mask as COCO's compressed RLE.
pub fn mask_to_rle(instance: &InstanceMask) -> Segmentation {
    let rle = run_lengths(instance);
    Segmentation::CompressedRle { size: [rle.h, rle.w], counts: mask::rle_to_string(&rle) }
}

/// Runs of 0 and 1 in turn, starting with 0, column by column: straight from the crop, without a canvas of the image's size.
fn run_lengths(instance: &InstanceMask) -> Rle {
    let image = instance.image;
    let mut counts = Vec::new();
    let (mut start, mut is_object) = (0, false);
    let mut switch = |at: usize, to: bool| {
        if to != is_object {
            counts.push((at - start) as u32);
            (start, is_object) = (at, to);
        }
    };
    for column in 0..instance.width {
        let top = (instance.left + column) * image.height + instance.top;
        if instance.top > 0 {
            // Closes a run that reached the image's bottom in the column before.
            switch(top - instance.top, false);
        }
        for row in 0..instance.height {
            switch(top + row, instance.bits()[row * instance.width + column] != 0);
        }
        if instance.top + instance.height < image.height {
            switch(top + instance.height, false);
        }
    }
    if instance.left + instance.width < image.width {
        switch((instance.left + instance.width) * image.height, false);
    }
    // The last run ends with the image.
    let end = image.num_pixels();
    counts.push((end - start) as u32);
    Rle { h: image.height as u32, w: image.width as u32, counts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_equal_those_of_the_whole_canvas(full in proptest::collection::vec(prop::bool::weighted(0.3), 30)) {
            let size = ImageSize::new(5, 6);
            let full: Vec<u8> = full.into_iter().map(u8::from).collect();
            let column_major: Vec<u8> = (0..30).map(|at| full[at % 5 * 6 + at / 5]).collect();
            let expected = mask::encode(&column_major, 5, 6).unwrap();
            let instance = InstanceMask::from_full(size, &full);
            prop_assert_eq!(run_lengths(&instance).counts, expected.counts);
            let segmentation = Some(mask_to_rle(&instance));
            let detection = CocoDetection { image_id: 1, category_id: 1, bbox: None, score: 1.0, segmentation };
            prop_assert_eq!(detection.mask(size).unwrap().unwrap().to_full(), full);
        }
    }
}
