//! Masks against pycocotools, torchvision and PyTorch; the numbers come from `tools/fixtures/make_masks.py`.

#![allow(clippy::unwrap_used, reason = "a broken fixture fails the test")]

mod common;

use cbn_detection::data::{MaskPaste, Transform};
use cbn_detection::eval::{mask_to_rle, paste_mask};
use cbn_detection::structures::{BBox, ImageSize, SoftMask};
use hotcoco::Segmentation;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    masks: Vec<MaskCase>,
    pasted: Vec<PasteCase>,
}

#[derive(Deserialize)]
struct MaskCase {
    original: [usize; 2],
    resized: [usize; 2],
    flip: bool,
    polygons: Vec<Vec<f64>>,
    counts: String,
    #[serde(rename = "box")]
    bbox: [f32; 4],
    target: Vec<u8>,
}

#[derive(Deserialize)]
struct PasteCase {
    side: usize,
    #[serde(rename = "box")]
    bbox: [f32; 4],
    size: [usize; 2],
    counts: String,
}

fn fixture() -> Fixture {
    serde_json::from_slice(&std::fs::read(common::fixture("masks/masks.json")).unwrap()).unwrap()
}

fn counts(segmentation: &Segmentation) -> &str {
    match segmentation {
        Segmentation::CompressedRle { counts, .. } => counts,
        other => panic!("{other:?} is not compressed RLE"),
    }
}

fn bbox([x1, y1, x2, y2]: [f32; 4]) -> BBox {
    BBox::new(x1, y1, x2, y2)
}

fn size([height, width]: [usize; 2]) -> ImageSize {
    ImageSize::new(height, width)
}

#[test]
fn polygons_at_network_scale_equal_those_of_pycocotools() {
    for case in fixture().masks {
        let transform = Transform::new(size(case.original), size(case.resized), case.flip);
        let mask = transform.apply_to_segmentation(&Segmentation::Polygon(case.polygons)).unwrap();
        assert_eq!(counts(&mask_to_rle(&mask)), case.counts);
    }
}

#[test]
fn mask_targets_equal_those_of_roi_align() {
    let (mut cells, mut differing) = (0, 0);
    for case in fixture().masks {
        let resized = size(case.resized);
        let keep = Transform::new(resized, resized, false);
        let size = case.resized.map(|side| side as u32);
        let mask = keep.apply_to_segmentation(&Segmentation::CompressedRle { size, counts: case.counts }).unwrap();
        let target = mask.crop_and_resize(&bbox(case.bbox), 28);
        cells += target.len();
        differing += target.iter().zip(&case.target).filter(|(ours, theirs)| **ours != f32::from(**theirs)).count();
    }
    // A mean within f32 rounding of one half may fall on either side: the reference sums in f32.
    assert!(differing * 10_000 <= cells, "{differing} of {cells} cells differ");
}

/// The formula of the script.
fn probability(row: usize, column: usize, side: usize) -> f32 {
    let centre = |cell: usize| (cell as f64 + 0.5) / side as f64 - 0.5;
    let (v, u) = (centre(row), centre(column));
    (1.0 / (1.0 + (30.0 * (u.hypot(v) - 0.35 - 0.08 * (5.0 * v.atan2(u)).sin())).exp())) as f32
}

#[test]
fn pasted_masks_equal_those_of_grid_sample() {
    for case in fixture().pasted {
        let cells =
            (0..case.side).flat_map(|row| (0..case.side).map(move |column| probability(row, column, case.side)));
        let mask = SoftMask { side: case.side, probabilities: cells.collect() };
        let pasted = paste_mask(&mask, &bbox(case.bbox), size(case.size), MaskPaste::PixelCentres);
        assert_eq!(counts(&mask_to_rle(&pasted)), case.counts);
    }
}
