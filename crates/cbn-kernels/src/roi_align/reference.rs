//! The definition of ROI Align and its gradient: one sample at a time, in `f64`, as torchvision writes it.

use super::{Roi, RoiAlign};
use crate::map_shape::MapShape;

/// See [`RoiAlign::forward`].
pub fn forward(config: &RoiAlign, map: &MapShape, x: &[f32], rois: &[Roi]) -> Vec<f64> {
    let mut y = vec![0.0; config.output_len(map, rois.len())];
    for_each_product(config, map, rois, |x_at, y_at, weight| y[y_at] += weight * f64::from(x[x_at]));
    y
}

/// See [`RoiAlign::backward`].
pub fn backward(config: &RoiAlign, map: &MapShape, grad_y: &[f32], rois: &[Roi]) -> Vec<f64> {
    let mut grad_x = vec![0.0; map.len()];
    for_each_product(config, map, rois, |x_at, y_at, weight| grad_x[x_at] += weight * f64::from(grad_y[y_at]));
    grad_x
}

/// Calls `visit` with the flat indices (input, output) and the weight of all products that ROI Align sums.
fn for_each_product(config: &RoiAlign, map: &MapShape, rois: &[Roi], mut visit: impl FnMut(usize, usize, f64)) {
    let [bins_y, bins_x] = config.output;
    for (n, roi) in rois.iter().enumerate() {
        let (start_y, bin_height, samples_y) = config.bins(roi.y1, roi.y2, bins_y);
        let (start_x, bin_width, samples_x) = config.bins(roi.x1, roi.x2, bins_x);
        let count = (samples_y * samples_x).max(1) as f64;
        for (bin_y, bin_x) in (0..bins_y).flat_map(|y| (0..bins_x).map(move |x| (y, x))) {
            for (sample_y, sample_x) in (0..samples_y).flat_map(|y| (0..samples_x).map(move |x| (y, x))) {
                let y = start_y + bin_y as f32 * bin_height + (sample_y as f32 + 0.5) * bin_height / samples_y as f32;
                let x = start_x + bin_x as f32 * bin_width + (sample_x as f32 + 0.5) * bin_width / samples_x as f32;
                for (pixel, weight) in corners(f64::from(y), f64::from(x), map) {
                    let x_at = (roi.batch_index * map.height * map.width + pixel) * map.channels;
                    let y_at = ((n * bins_y + bin_y) * bins_x + bin_x) * map.channels;
                    (0..map.channels).for_each(|c| visit(x_at + c, y_at + c, weight / count));
                }
            }
        }
    }
}

/// The four pixels around a point and their bilinear weights; none for points more than a pixel outside.
fn corners(y: f64, x: f64, map: &MapShape) -> Vec<(usize, f64)> {
    let (height, width) = (map.height as f64, map.width as f64);
    if y < -1.0 || y > height || x < -1.0 || x > width {
        return Vec::new();
    }
    let (y, x) = (y.clamp(0.0, height - 1.0), x.clamp(0.0, width - 1.0));
    let (low_y, low_x) = (y as usize, x as usize);
    let (high_y, high_x) = ((low_y + 1).min(map.height - 1), (low_x + 1).min(map.width - 1));
    let (fraction_y, fraction_x) = (y.fract(), x.fract());
    vec![
        (low_y * map.width + low_x, (1.0 - fraction_y) * (1.0 - fraction_x)),
        (low_y * map.width + high_x, (1.0 - fraction_y) * fraction_x),
        (high_y * map.width + low_x, fraction_y * (1.0 - fraction_x)),
        (high_y * map.width + high_x, fraction_y * fraction_x),
    ]
}
