//! Bilinear resize without antialiasing, channels last: a pixel of the result samples the image at its own centre.
//!
//! Output pixel `i` of `n` lies at `(i + 0.5) * length / n - 0.5` of the `length` input pixels, kept between the first and the last.

/// What an output line reads: `low * (1 - fraction) + high * fraction`.
struct Sample {
    low: usize,
    high: usize,
    fraction: f32,
}

/// Fixed-point weights have eleven bits (OpenCV `INTER_RESIZE_COEF_BITS`).
const COEFFICIENT_SCALE: f32 = 2048.0;

fn samples(length: usize, output: usize) -> Vec<Sample> {
    let scale = length as f64 / output as f64;
    (0..output)
        .map(|index| {
            let at = ((index as f64 + 0.5) * scale - 0.5) as f32;
            let floor = at.floor();
            if floor < 0.0 {
                return Sample { low: 0, high: 0, fraction: 0.0 };
            }
            let low = floor as usize;
            if low + 1 >= length {
                return Sample { low: length - 1, high: length - 1, fraction: 0.0 };
            }
            Sample { low, high: low + 1, fraction: at - floor }
        })
        .collect()
}

/// The same, but beyond the border the nearest line is blended with itself: OpenCV rounds each part down, and does so for rows only.
fn blended_samples(length: usize, output: usize) -> Vec<Sample> {
    let scale = length as f64 / output as f64;
    let line = |at: f32| at.clamp(0.0, length as f32 - 1.0) as usize;
    (0..output)
        .map(|index| {
            let at = ((index as f64 + 0.5) * scale - 0.5) as f32;
            let floor = at.floor();
            Sample { low: line(floor), high: line(floor + 1.0), fraction: at - floor }
        })
        .collect()
}

fn check(len: usize, channels: usize, [height, width]: [usize; 2]) {
    assert_eq!(len, height * width * channels, "an image has one value per pixel and channel");
    assert!(height * width > 0, "an image has pixels");
}

/// `[height, width, channels]` resized to `[output[0], output[1], channels]`, in the fixed-point arithmetic of OpenCV 4's `INTER_LINEAR` on bytes.
///
/// # Panics
///
/// If `image` does not have `height * width * channels` values, or has none.
pub fn resize_bilinear_u8(image: &[u8], size: [usize; 2], channels: usize, output: [usize; 2]) -> Vec<u8> {
    check(image.len(), channels, size);
    let weights = |sample: &Sample| {
        [1.0 - sample.fraction, sample.fraction].map(|weight| (weight * COEFFICIENT_SCALE).round_ties_even() as i32)
    };
    let columns: Vec<(usize, usize, [i32; 2])> = samples(size[1], output[1])
        .iter()
        .map(|sample| (sample.low * channels, sample.high * channels, weights(sample)))
        .collect();
    let row_len = output[1] * channels;
    let stretch = |row: usize| {
        let row = &image[row * size[1] * channels..][..size[1] * channels];
        let mut line = Vec::with_capacity(row_len);
        for &(low, high, [a, b]) in &columns {
            line.extend((0..channels).map(|c| i32::from(row[low + c]) * a + i32::from(row[high + c]) * b));
        }
        line
    };
    let mut resized = Vec::with_capacity(output[0] * row_len);
    // Two neighbouring lines serve all output lines between them.
    let mut lines: [(usize, Vec<i32>); 2] = [(0, stretch(0)), (0, stretch(0))];
    for sample in blended_samples(size[0], output[0]) {
        if lines[0].0 != sample.low {
            lines[0] = if lines[1].0 == sample.low { lines[1].clone() } else { (sample.low, stretch(sample.low)) };
        }
        if lines[1].0 != sample.high {
            lines[1] = (sample.high, stretch(sample.high));
        }
        let [a, b] = weights(&sample);
        let pairs = lines[0].1.iter().zip(&lines[1].1);
        resized
            .extend(pairs.map(|(low, high)| (((((low >> 4) * a) >> 16) + (((high >> 4) * b) >> 16) + 2) >> 2) as u8));
    }
    resized
}

/// `[height, width, channels]` resized to `[output[0], output[1], channels]`, as OpenCV's `INTER_LINEAR` on floats.
///
/// # Panics
///
/// If `image` does not have `height * width * channels` values, or has none.
pub fn resize_bilinear_f32(image: &[f32], size: [usize; 2], channels: usize, output: [usize; 2]) -> Vec<f32> {
    check(image.len(), channels, size);
    let mix = |low: f32, high: f32, fraction: f32| low * (1.0 - fraction) + high * fraction;
    resize_floats(image, channels, [&samples(size[0], output[0]), &samples(size[1], output[1])], size[1], mix)
}

/// The same as PyTorch's `interpolate(mode = "bilinear", align_corners = False)`, bit for bit with its AVX2 build: places are `f32`, so that one of a thousand
/// pixels on is known to four digits of a pixel, and products are fused into sums.
///
/// # Panics
///
/// If `image` does not have `height * width * channels` values, or has none.
pub fn resize_bilinear_torch(image: &[f32], size: [usize; 2], channels: usize, output: [usize; 2]) -> Vec<f32> {
    check(image.len(), channels, size);
    let mix = |low: f32, high: f32, fraction: f32| fused(low, 1.0 - fraction, high * fraction);
    let [rows, columns] = [0, 1].map(|axis| torch_samples(size[axis], output[axis]));
    resize_floats(image, channels, [&rows, &columns], size[1], mix)
}

/// `a * b + c`, rounded once but for ties of the `f64` sum: the product of two `f32` is exact there. `f32::mul_add` is a call where the target has no FMA.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    (f64::from(a) * f64::from(b) + f64::from(c)) as f32
}

/// PyTorch 2.11 `aten/src/ATen/native/UpSample.h`: `area_pixel_compute_source_index` and `guard_index_and_lambda`.
fn torch_samples(length: usize, output: usize) -> Vec<Sample> {
    if length == output {
        return (0..output).map(|index| Sample { low: index, high: index, fraction: 0.0 }).collect();
    }
    let scale = length as f32 / output as f32;
    (0..output)
        .map(|index| {
            let at = fused(scale, index as f32 + 0.5, -0.5).max(0.0);
            let low = (at as usize).min(length - 1);
            Sample { low, high: (low + 1).min(length - 1), fraction: (at - low as f32).clamp(0.0, 1.0) }
        })
        .collect()
}

/// Along rows first, then between them.
fn resize_floats(
    image: &[f32],
    channels: usize,
    [rows, columns]: [&[Sample]; 2],
    width: usize,
    mix: impl Fn(f32, f32, f32) -> f32,
) -> Vec<f32> {
    let row = |index: usize| &image[index * width * channels..][..width * channels];
    let mut resized = Vec::with_capacity(rows.len() * columns.len() * channels);
    for vertical in rows {
        let (upper, lower) = (row(vertical.low), row(vertical.high));
        for sample in columns {
            let (low, high) = (sample.low * channels, sample.high * channels);
            let along = |row: &[f32], c: usize| mix(row[low + c], row[high + c], sample.fraction);
            resized.extend((0..channels).map(|c| mix(along(upper, c), along(lower, c), vertical.fraction)));
        }
    }
    resized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_clamps_at_the_borders() {
        assert_eq!(resize_bilinear_u8(&[0, 100], [1, 2], 1, [1, 4]), [0, 25, 75, 100]);
        assert_eq!(resize_bilinear_f32(&[0.0, 100.0], [1, 2], 1, [1, 4]), [0.0, 25.0, 75.0, 100.0]);
        assert_eq!(resize_bilinear_torch(&[0.0, 100.0], [1, 2], 1, [1, 4]), [0.0, 25.0, 75.0, 100.0]);
    }

    #[test]
    fn channels_stay_apart() {
        assert_eq!(resize_bilinear_u8(&[0, 9, 100, 9], [1, 2], 2, [2, 4])[8..], [0, 9, 25, 9, 75, 9, 100, 9]);
    }

    /// Numbers: torch 2.11 on a CPU with AVX2, `interpolate(image, size = (4, 1201), mode = "bilinear", align_corners = False)`. With places in `f64` the second
    /// and the last two would be lower by 2e-3 to 5e-3.
    #[test]
    fn places_are_rounded_as_torch_rounds_them() {
        let image: Vec<f32> = (0..3 * 640).map(|at| ((at % 640 * 7919 + at / 640 * 31) % 1000) as f32).collect();
        let resized = resize_bilinear_torch(&image, [3, 640], 1, [4, 1201]);
        for (row, column, expected) in [
            (1, 401, 729.517_33),
            (2, 777, 523.093_14),
            (2, 1111, 106.306_885),
            (3, 1199, 327.249_57),
            (1, 1150, 399.661_93),
        ] {
            assert_eq!(resized[row * 1201 + column], expected, "row {row}, column {column}");
        }
        assert_eq!(resize_bilinear_torch(&image, [3, 640], 1, [3, 640]), image);
    }
}
