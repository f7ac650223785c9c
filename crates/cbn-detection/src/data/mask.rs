use hotcoco::{Rle, Segmentation, mask};

use super::{MaskResize, Transform};
use crate::structures::{ImageSize, InstanceMask};

/// Why a segmentation cannot be turned into pixels.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MaskError {
    /// A polygon with too few or an odd number of coordinates.
    #[error("a polygon has {0} coordinates; three points or more are needed, x and y of each")]
    Polygon(usize),
    /// A polygon with a coordinate that is not a number.
    #[error("a polygon has a coordinate that is not a finite number")]
    NotFinite,
    /// An RLE made for another image.
    #[error("the RLE is for a {found} image, but the image is {expected}")]
    RleSize {
        /// Size in the RLE.
        found: ImageSize,
        /// Size of the image.
        expected: ImageSize,
    },
    /// An RLE that does not decode.
    #[error("the RLE does not decode: {0}")]
    Rle(String),
    /// A mask of a kind that is neither.
    #[error("it is neither polygons nor RLE")]
    Kind,
}

/// Says what is wrong with a segmentation of an image of `size`, if anything.
pub(super) fn validate(segmentation: &Segmentation, size: ImageSize) -> Result<(), MaskError> {
    match segmentation.polygons() {
        Some(polygons) => polygons.iter().try_for_each(|polygon| validate_polygon(polygon)),
        None => decode_rle(segmentation, size).map(drop),
    }
}

/// Pixels of a segmentation after `transform`.
pub(super) fn rasterize(segmentation: &Segmentation, transform: &Transform) -> Result<InstanceMask, MaskError> {
    let polygons = segmentation.polygons();
    let rle = match (polygons, transform.mask_resize()) {
        (Some(polygons), MaskResize::Outlines) => return rasterize_polygons(&polygons, transform),
        (Some(polygons), MaskResize::OpenCvNearest | MaskResize::TorchNearest) => {
            polygons.iter().try_for_each(|polygon| validate_polygon(polygon))?;
            run_lengths(&polygons, transform.original)?
        }
        (None, _) => decode_rle(segmentation, transform.original)?,
    };
    let resampled = resample_rle(&rle, transform);
    let mirrored = if transform.flip { resampled.flip_horizontal() } else { resampled };
    Ok(if transform.flip_vertical { mirrored.flip_vertical() } else { mirrored })
}

fn run_lengths(polygons: &[Vec<f64>], size: ImageSize) -> Result<Rle, MaskError> {
    mask::fr_polys(polygons, size.height as u32, size.width as u32).map_err(|error| MaskError::Rle(error.to_string()))
}

fn validate_polygon(polygon: &[f64]) -> Result<(), MaskError> {
    if polygon.len() < 6 || polygon.len() % 2 == 1 {
        return Err(MaskError::Polygon(polygon.len()));
    }
    if !polygon.iter().all(|coordinate| coordinate.is_finite()) {
        return Err(MaskError::NotFinite);
    }
    Ok(())
}

fn rasterize_polygons(polygons: &[Vec<f64>], transform: &Transform) -> Result<InstanceMask, MaskError> {
    let size = transform.resized;
    let [sx, sy] = transform.scale_f64();
    let mut moved = Vec::with_capacity(polygons.len());
    for polygon in polygons {
        validate_polygon(polygon)?;
        let points = polygon.chunks_exact(2).flat_map(|point| {
            let (x, y) = (point[0] * sx, point[1] * sy);
            let x = if transform.flip { size.width as f64 - x } else { x };
            [x, if transform.flip_vertical { size.height as f64 - y } else { y }]
        });
        moved.push(points.collect::<Vec<f64>>());
    }
    let rle = run_lengths(&moved, size)?;
    // The runs are cheap whatever the size of the canvas; only the object's rectangle becomes pixels.
    let (rows, columns, crop) = decode_crop(&rle);
    let window = ImageSize::new(rows.len(), columns.len());
    Ok(InstanceMask::from_window(size, (columns.start, rows.start), window, &to_row_major(&crop, window)))
}

fn decode_rle(segmentation: &Segmentation, expected: ImageSize) -> Result<Rle, MaskError> {
    let rle = segmentation.rle_ref().ok_or(MaskError::Kind)?;
    let rle = rle.to_rle().map_err(|error| MaskError::Rle(error.to_string()))?;
    let found = ImageSize::new(rle.h as usize, rle.w as usize);
    if found != expected {
        return Err(MaskError::RleSize { found, expected });
    }
    Ok(rle)
}

/// Of which original pixel, along an axis of `length`, a pixel `at` of a `scale` times longer axis takes its value.
fn source(at: usize, scale: f64, length: usize, rule: MaskResize) -> usize {
    let place = match rule {
        MaskResize::Outlines => (at as f64 + 0.5) / scale,
        // Places as OpenCV and PyTorch compute them: what rounds to a whole number must do so here.
        MaskResize::OpenCvNearest => at as f64 * (1.0 / scale),
        MaskResize::TorchNearest => f64::from(at as f32 * (length as f32 / (length as f64 * scale).round() as f32)),
    };
    (place as usize).min(length - 1)
}

/// The mask at network size: every pixel takes the value of one original pixel.
fn resample_rle(rle: &Rle, transform: &Transform) -> InstanceMask {
    let (original, resized) = (transform.original, transform.resized);
    let [sx, sy] = transform.scale_f64();
    let rule = transform.mask_resize();
    let (source_rows, source_columns, crop) = decode_crop(rle);
    let rows = resized_range(&source_rows, sy, resized.height);
    let columns = resized_range(&source_columns, sx, resized.width);
    let mut pixels = Vec::with_capacity(rows.len() * columns.len());
    for row in rows.clone() {
        let y = source(row, sy, original.height, rule);
        pixels.extend(columns.clone().map(|column| {
            let x = source(column, sx, original.width, rule);
            let inside = source_rows.contains(&y) && source_columns.contains(&x);
            if inside { crop[(x - source_columns.start) * source_rows.len() + y - source_rows.start] } else { 0 }
        }));
    }
    InstanceMask::from_window(resized, (columns.start, rows.start), ImageSize::new(rows.len(), columns.len()), &pixels)
}

/// Rows and columns of the RLE's bounding rectangle, and the pixels in it, column by column.
fn decode_crop(rle: &Rle) -> (std::ops::Range<usize>, std::ops::Range<usize>, Vec<u8>) {
    let [x, y, width, height] = mask::to_bbox(rle).map(|value| value as usize);
    let mut crop = vec![0; width * height];
    let (image_height, mut at, mut is_object) = (rle.h as usize, 0, false);
    for &count in &rle.counts {
        let end = at + count as usize;
        while is_object && at < end {
            // One column of the run at a time.
            let (column, row) = (at / image_height, at % image_height);
            let length = (end - at).min(image_height - row);
            crop[(column - x) * height + row - y..][..length].fill(1);
            at += length;
        }
        at = end;
        is_object = !is_object;
    }
    (y..y + height, x..x + width, crop)
}

/// Network pixels that can take their value from `source`, and one more on each side for the rounding of places.
fn resized_range(source: &std::ops::Range<usize>, scale: f64, length: usize) -> std::ops::Range<usize> {
    let start = ((source.start as f64 * scale).floor() as usize).saturating_sub(1).min(length);
    let end = ((source.end as f64 * scale).ceil() as usize + 1).clamp(start, length);
    start..end
}

fn to_row_major(column_major: &[u8], size: ImageSize) -> Vec<u8> {
    let mut row_major = vec![0; size.num_pixels()];
    for (column, pixels) in column_major.chunks_exact(size.height.max(1)).enumerate() {
        for (row, &pixel) in pixels.iter().enumerate() {
            row_major[row * size.width + column] = pixel;
        }
    }
    row_major
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keep(size: ImageSize) -> Transform {
        Transform::new(size, size, false)
    }

    fn rle_of(size: ImageSize, row_major: &[u8]) -> Segmentation {
        let column_major: Vec<u8> =
            (0..size.width).flat_map(|x| (0..size.height).map(move |y| row_major[y * size.width + x])).collect();
        let rle = mask::encode(&column_major, size.height as u32, size.width as u32).unwrap();
        Segmentation::CompressedRle { size: [rle.h, rle.w], counts: mask::rle_to_string(&rle) }
    }

    #[test]
    fn a_square_polygon_covers_its_pixels() {
        let size = ImageSize::new(6, 8);
        let square = Segmentation::Polygon(vec![vec![2.0, 1.0, 5.0, 1.0, 5.0, 4.0, 2.0, 4.0]]);
        let mask = rasterize(&square, &keep(size)).unwrap();
        assert_eq!((mask.left, mask.top, mask.width, mask.height, mask.area_px()), (2, 1, 3, 3, 9));
    }

    #[test]
    fn a_mirrored_square_lies_on_the_other_side() {
        let transform = Transform::new(ImageSize::new(6, 8), ImageSize::new(12, 16), true);
        let square = Segmentation::Polygon(vec![vec![1.0, 1.0, 3.0, 1.0, 3.0, 4.0, 1.0, 4.0]]);
        let mask = rasterize(&square, &transform).unwrap();
        assert_eq!((mask.left, mask.top, mask.width, mask.height, mask.area_px()), (10, 2, 4, 6, 24));
    }

    #[test]
    fn uncompressed_rle_is_read_like_compressed_rle() {
        let size = ImageSize::new(3, 4);
        let pixels = [0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0];
        let compressed = rasterize(&rle_of(size, &pixels), &keep(size)).unwrap();
        let runs = Segmentation::UncompressedRle { size: [3, 4], counts: vec![3, 2, 2, 1, 4] };
        assert_eq!(rasterize(&runs, &keep(size)).unwrap(), compressed);
        assert_eq!(compressed.to_full(), pixels);
    }

    #[test]
    fn malformed_segmentations_are_named() {
        let size = ImageSize::new(3, 4);
        let message = |segmentation: Segmentation| validate(&segmentation, size).unwrap_err().to_string();
        assert_eq!(
            message(Segmentation::Polygon(vec![vec![1.0, 2.0, 3.0, 4.0]])),
            "a polygon has 4 coordinates; three points or more are needed, x and y of each"
        );
        assert_eq!(
            message(Segmentation::UncompressedRle { size: [4, 3], counts: vec![12] }),
            "the RLE is for a 3x4 image, but the image is 4x3"
        );
        assert!(
            message(Segmentation::UncompressedRle { size: [3, 4], counts: vec![13] })
                .starts_with("the RLE does not decode: ")
        );
    }

    proptest! {
        #[test]
        fn rle_round_trips(full in proptest::collection::vec(0u8..2, 35)) {
            let size = ImageSize::new(5, 7);
            let mask = rasterize(&rle_of(size, &full), &keep(size)).unwrap();
            prop_assert_eq!(mask.to_full(), full);
        }

        #[test]
        fn doubling_repeats_every_pixel(full in proptest::collection::vec(0u8..2, 35)) {
            let size = ImageSize::new(5, 7);
            let transform = Transform::new(size, ImageSize::new(10, 14), false);
            let doubled = rasterize(&rle_of(size, &full), &transform).unwrap().to_full();
            let expected: Vec<u8> = (0..140).map(|at| full[(at / 14 / 2) * 7 + at % 14 / 2]).collect();
            prop_assert_eq!(doubled, expected);
        }

        #[test]
        fn the_crop_loses_no_pixel(points in proptest::collection::vec((-5f64..25.0, -5f64..25.0), 3..8)) {
            let size = ImageSize::new(20, 21);
            let polygon: Vec<f64> = points.iter().flat_map(|&(x, y)| [x, y]).collect();
            let cropped = rasterize(&Segmentation::Polygon(vec![polygon.clone()]), &keep(size)).unwrap();
            let whole = mask::decode(&mask::fr_poly(&polygon, 20, 21).unwrap());
            prop_assert_eq!(cropped.to_full(), to_row_major(&whole, size));
        }
    }
}
