//! ROI Align, NMS and mask pasting against torchvision's results: `fixtures/make_torchvision.py` made them.

use cbn_kernels::{MapShape, MaskSampling, Roi, RoiAlign, nms, paste_mask, roi_align::reference};
use cbn_kernels::{PyramidLevel, PyramidRoi, pyramid_roi_align, pyramid_roi_align_backward};

const MAP: MapShape = MapShape { batch: 2, height: 6, width: 7, channels: 3 };

/// The formula of the script.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn fixture(name: &str) -> Vec<f64> {
    let mut lines = include_str!("fixtures/torchvision.txt").lines().map(|line| line.split(' '));
    let line = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words)).expect("the script writes it");
    line.map(|word| word.parse().expect("a number")).collect()
}

fn rois() -> Vec<Roi> {
    let roi = |batch_index, [x1, y1, x2, y2]: [f32; 4]| Roi { batch_index, x1, y1, x2, y2 };
    vec![
        roi(0, [0.0, 0.0, 27.0, 23.0]),
        roi(1, [3.5, 2.25, 17.75, 20.5]),
        roi(0, [-9.0, -7.0, 12.0, 40.0]),
        roi(1, [10.0, 8.0, 10.5, 8.25]),
    ]
}

fn configs() -> [RoiAlign; 4] {
    [(true, 0), (true, 2), (false, 0), (false, 2)].map(|(aligned, sampling_ratio)| RoiAlign {
        output: [2, 3],
        sampling_ratio,
        spatial_scale: 0.25,
        aligned,
    })
}

/// Absolute: values are at most 0.5 and sums of a few; each term rounds to 6e-8 of its size, in another order than
/// torchvision's.
fn assert_close(values: &[f32], truth: &[f64], what: &str) {
    assert_eq!(values.len(), truth.len());
    for (i, (value, truth)) in values.iter().zip(truth).enumerate() {
        assert!((f64::from(*value) - truth).abs() <= 1e-6, "{what}: element {i} is {value}, not {truth}");
    }
}

#[test]
fn roi_align_is_torchvisions() {
    let rois = rois();
    for config in configs() {
        let name = format!("{}_{}", config.aligned, config.sampling_ratio);
        let mut y = vec![7.0; config.output_len(&MAP, rois.len())];
        config.forward(&MAP, &values(MAP.len()), &rois, &mut y);
        assert_close(&y, &fixture(&format!("roi_align_{name}")), &name);
        let mut grad_x = vec![7.0; MAP.len()];
        config.backward(&MAP, &values(y.len()), &rois, &mut grad_x);
        assert_close(&grad_x, &fixture(&format!("roi_align_backward_{name}")), &name);
    }
}

#[test]
fn roi_align_is_its_definition_with_many_channels_and_boxes() {
    let map = MapShape { batch: 2, height: 19, width: 23, channels: 37 };
    let rois: Vec<Roi> = (0..40)
        .map(|i| {
            let at = |by: usize, to: usize| (i * by % to) as f32;
            let (x1, y1) = (at(31, 83) - 6.0, at(37, 71) - 5.0);
            Roi { batch_index: i % 2, x1, y1, x2: x1 + 0.7 * at(17, 61), y2: y1 + 0.9 * at(13, 53) }
        })
        .collect();
    for config in configs() {
        let (x, grad_y) = (values(map.len()), values(config.output_len(&map, rois.len())));
        let (mut y, mut grad_x) = (grad_y.clone(), x.clone());
        config.forward(&map, &x, &rois, &mut y);
        assert_close(&y, &reference::forward(&config, &map, &x, &rois), "y");
        config.backward(&map, &grad_y, &rois, &mut grad_x);
        assert_close(&grad_x, &reference::backward(&config, &map, &grad_y, &rois), "grad_x");
    }
}

#[test]
fn roi_align_backward_is_bit_equal_for_any_number_of_threads() {
    let (config, rois) = (configs()[0], rois());
    let grad_y = values(config.output_len(&MAP, rois.len()));
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut grad_x = vec![0.0; MAP.len()];
        pool.install(|| config.backward(&MAP, &grad_y, &rois, &mut grad_x));
        grad_x
    };
    assert!((2..=4).all(|threads| on(threads) == on(1)));
}

/// Boxes of a pyramid give the bits that each level gives with its own boxes alone, in their places.
#[test]
fn a_pyramid_is_its_levels() {
    let maps = [[16, 12], [8, 6], [4, 3]].map(|[height, width]| MapShape { batch: 2, height, width, channels: 5 });
    let align = |level: usize| RoiAlign { spatial_scale: 0.25 / (1 << level) as f32, ..configs()[1] };
    let roi = |i: usize| Roi {
        batch_index: i % 2,
        x1: (i * 7 % 30) as f32,
        y1: (i * 11 % 40) as f32,
        x2: (i * 7 % 30 + 4 + i) as f32,
        y2: (i * 11 % 40 + 6) as f32,
    };
    // The last level has no box.
    let rois: Vec<PyramidRoi> = (0..9).map(|i| PyramidRoi { level: i * 5 % 3 % 2, roi: roi(i) }).collect();
    let xs = maps.map(|map| values(map.len()));
    let level = |i: usize| PyramidLevel { align: align(i), map: maps[i], x: &xs[i] };
    let y = pyramid_roi_align(&[0, 1, 2].map(level), &rois);
    let crop_len = align(0).output_len(&maps[0], 1);
    assert_eq!(y.len(), rois.len() * crop_len);
    for i in 0..3 {
        let (places, own): (Vec<usize>, Vec<Roi>) =
            rois.iter().enumerate().filter(|(_, roi)| roi.level == i).map(|(place, roi)| (place, roi.roi)).unzip();
        let mut crops = vec![7.0; own.len() * crop_len];
        align(i).forward(&maps[i], &xs[i], &own, &mut crops);
        let in_place: Vec<f32> =
            places.iter().flat_map(|place| &y[place * crop_len..(place + 1) * crop_len]).copied().collect();
        assert_eq!(in_place, crops);
        let mut grad_x = vec![7.0; maps[i].len()];
        align(i).backward(&maps[i], &crops, &own, &mut grad_x);
        assert_eq!(pyramid_roi_align_backward(&align(i), &maps[i], i, &rois, &y), grad_x);
    }
}

#[test]
fn nms_is_torchvisions() {
    let boxes: Vec<[f32; 4]> = (0..60)
        .map(|i| {
            let [x, y, width, height] = [i * 31 % 47, i * 37 % 43, 10 + i * 13 % 11, 10 + i * 17 % 7].map(|n| n as f32);
            [x, y, x + width, y + height]
        })
        .collect();
    let scores: Vec<f32> = (0..60).map(|i| (i * 7919 % 101) as f32).collect();
    for threshold in [0.3, 0.5, 0.7] {
        let kept: Vec<f64> = nms(&boxes, &scores, threshold).into_iter().map(|i| i as f64).collect();
        assert_eq!(kept, fixture(&format!("nms_{threshold}")));
    }
}

#[test]
fn pasted_masks_are_detectron2s_and_torchvisions() {
    let mask: Vec<f32> = values(25).into_iter().map(|value| value + 0.5).collect();
    let boxes = [[2.3, 1.6, 11.2, 9.9], [-3.4, -2.2, 8.1, 20.7], [4.0, 5.0, 6.0, 12.5]];
    for (n, bbox) in boxes.into_iter().enumerate() {
        for (name, sampling) in [("continuous", MaskSampling::Continuous), ("whole_pixels", MaskSampling::WholePixels)]
        {
            let bitmap = paste_mask(&mask, 5, bbox, [12, 14], 0.5, sampling);
            let bitmap: Vec<f64> = bitmap.into_iter().map(f64::from).collect();
            assert_eq!(bitmap, fixture(&format!("paste_{name}_{n}")), "{name} of {bbox:?}");
        }
    }
}
