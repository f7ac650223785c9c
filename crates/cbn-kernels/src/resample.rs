//! Bilinear resize of bytes with antialiasing, channels last, bit for bit that of Pillow's `Image.resize(size, Image.BILINEAR)`.
//!
//! A pixel of the result is a mean of the pixels around its centre. Their weights fall linearly with the distance, to zero at one input pixel or, where the image shrinks, at
//! one output pixel. Rows are resized first, then columns, and both results are rounded to bytes.
//!
//! `fast_image_resize` 6.1 (`FilterType::Bilinear`) gives other bytes in five of the six images that the last test resizes to another size, and one grey level moves a detector's scores.

/// Bits of a weight behind the point: of 32, eight are the pixel's and two are spare (Pillow 13.0 `src/libImaging/Resample.c`).
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// What an output line reads: one weight for each input line from `start` on.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// Added to a sum before its bits behind the point are cut off.
const ONE_HALF: i32 = 1 << (PRECISION_BITS - 1);

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// `precompute_coeffs` and `normalize_coeffs_8bpc` for the whole length of an axis.
fn windows(length: usize, output: usize) -> Vec<Window> {
    let scale = length as f64 / output as f64;
    let reach = scale.max(1.0);
    let window = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        // Cut towards zero, as a cast in C.
        let start = (centre - reach + 0.5) as usize;
        let end = ((centre + reach + 0.5) as usize).min(length);
        let weights: Vec<f64> =
            (start..end).map(|line| (1.0 - ((line as f64 - centre + 0.5) * (1.0 / reach)).abs()).max(0.0)).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (0.5 + weight / sum * f64::from(1 << PRECISION_BITS)) as i32;
        Window { start, weights: weights.iter().map(fixed).collect() }
    };
    (0..output).map(window).collect()
}

/// `[height, width, channels]` resized to `[output[0], output[1], channels]`.
///
/// # Panics
///
/// If `image` does not have `height * width * channels` values, or has none.
pub fn resample_bilinear_u8(image: &[u8], size: [usize; 2], channels: usize, output: [usize; 2]) -> Vec<u8> {
    assert_eq!(image.len(), size[0] * size[1] * channels, "an image has one value per pixel and channel");
    assert!(!image.is_empty(), "an image has pixels");
    let [rows, columns] = [0, 1].map(|axis| windows(size[axis], output[axis]));
    let stretched = resample_rows(image, channels, size[1], &columns);
    resample_columns(&stretched, output[1] * channels, &rows)
}

fn resample_rows(image: &[u8], channels: usize, width: usize, columns: &[Window]) -> Vec<u8> {
    let mut resized = Vec::with_capacity(image.len() / width * columns.len());
    for row in image.chunks_exact(width * channels) {
        for column in columns {
            let pixels = &row[column.start * channels..];
            let sum = |channel: usize| -> i32 {
                let values = pixels[channel..].iter().step_by(channels);
                values.zip(&column.weights).map(|(&value, weight)| i32::from(value) * weight).sum()
            };
            resized.extend((0..channels).map(|channel| byte(ONE_HALF + sum(channel))));
        }
    }
    resized
}

fn resample_columns(image: &[u8], row_len: usize, rows: &[Window]) -> Vec<u8> {
    let mut resized = Vec::with_capacity(rows.len() * row_len);
    let mut sums = vec![0; row_len];
    for row in rows {
        sums.fill(ONE_HALF);
        for (line, weight) in image[row.start * row_len..].chunks_exact(row_len).zip(&row.weights) {
            sums.iter_mut().zip(line).for_each(|(sum, &value)| *sum += i32::from(value) * weight);
        }
        resized.extend(sums.iter().map(|&sum| byte(sum)));
    }
    resized
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[height, width, 3]` bytes without a pattern.
    fn image([height, width]: [usize; 2]) -> Vec<u8> {
        (0..height * width * 3).map(|at| (at * 7919 % 1000 * 31 % 256) as u8).collect()
    }

    /// The sum of all bytes, each times its place from one on.
    fn fingerprint(bytes: &[u8]) -> u64 {
        bytes.iter().enumerate().map(|(at, &byte)| (at as u64 + 1) * u64::from(byte)).sum()
    }

    fn resized(size: [usize; 2], output: [usize; 2]) -> Vec<u8> {
        resample_bilinear_u8(&image(size), size, 3, output)
    }

    // Numbers: Pillow 13.0, `numpy.asarray(Image.fromarray(image).resize((width, height), Image.BILINEAR))` of the same bytes.

    #[test]
    fn an_enlarged_image_has_pillows_bytes() {
        let found = resized([3, 4], [5, 7]);
        let first = [0, 73, 122, 61, 126, 83, 159, 210, 21, 117, 166, 87, 72, 103, 152, 156, 41, 90, 209, 2, 51];
        let last = [200, 17, 66, 170, 70, 119, 121, 154, 203, 61, 110, 159, 16, 65, 114, 100, 149, 198, 153, 202, 251];
        assert_eq!(found[..21], first);
        assert_eq!(found[4 * 21..], last);
    }

    #[test]
    fn a_shrunk_image_has_pillows_bytes() {
        let expected = [126, 112, 108, 109, 117, 133, 123, 115, 129, 148, 150, 99, 117, 142, 136, 118, 142, 147];
        assert_eq!(resized([5, 7], [2, 3]), expected);
    }

    #[test]
    fn images_of_coco_have_pillows_bytes() {
        for (size, output, expected) in [
            ([426, 640], [800, 1202], 530_841_200_756_323),
            ([480, 640], [800, 1067], 418_291_167_663_801),
            ([640, 359], [1333, 748], 570_729_619_711_355),
            ([333, 500], [333, 500], 15_914_668_382_364),
            ([1200, 1600], [800, 1067], 418_297_240_798_160),
            ([900, 300], [1000, 200], 22_965_916_809_570),
            ([50, 70], [1, 1], 765),
        ] {
            assert_eq!(fingerprint(&resized(size, output)), expected, "{size:?} to {output:?}");
        }
    }
}
