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

/// `[height, width, channels]` resized to `[output[0], output[1], channels]`, as PyTorch's `interpolate(mode = "bilinear")` and OpenCV's `INTER_LINEAR` on floats.
///
/// # Panics
///
/// If `image` does not have `height * width * channels` values, or has none.
pub fn resize_bilinear_f32(image: &[f32], size: [usize; 2], channels: usize, output: [usize; 2]) -> Vec<f32> {
    check(image.len(), channels, size);
    let columns = samples(size[1], output[1]);
    let row = |index: usize| &image[index * size[1] * channels..][..size[1] * channels];
    let mut resized = Vec::with_capacity(output[0] * output[1] * channels);
    for vertical in samples(size[0], output[0]) {
        let (upper, lower) = (row(vertical.low), row(vertical.high));
        for sample in &columns {
            let (low, high) = (sample.low * channels, sample.high * channels);
            let mix = |row: &[f32], c: usize| row[low + c] * (1.0 - sample.fraction) + row[high + c] * sample.fraction;
            resized.extend(
                (0..channels).map(|c| mix(upper, c) * (1.0 - vertical.fraction) + mix(lower, c) * vertical.fraction),
            );
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
    }

    #[test]
    fn channels_stay_apart() {
        assert_eq!(resize_bilinear_u8(&[0, 9, 100, 9], [1, 2], 2, [2, 4])[8..], [0, 9, 25, 9, 75, 9, 100, 9]);
    }
}
