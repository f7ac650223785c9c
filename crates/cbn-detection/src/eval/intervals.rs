//! How far AP would scatter on other images: the bootstrap.

use std::collections::HashMap;

use hotcoco::COCOeval;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

/// COCO's recalls at which precision is read.
const NUM_RECALLS: usize = 101;
/// Share of resampled values inside an interval.
const CONFIDENCE: f64 = 0.95;

/// Where 95 % of the resampled values lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The 2.5th percentile.
    pub lower: f64,
    /// The 97.5th percentile.
    pub upper: f64,
    /// Share of values above 0.
    pub share_positive: f64,
}

/// AP over IoU 0.50 to 0.95, at 0.50 and at 0.75.
pub type ApTriple = [Option<f64>; 3];

/// Every match of an evaluation, so that AP can be computed with each image counted any number of times.
///
/// hotcoco's own resampling drops repeated draws, so that a sample has 63 % of the images; here an image drawn twice counts
/// twice, as in Efron's bootstrap. With each image once, the numbers are COCO's.
#[derive(Debug, Clone)]
pub struct ApSamples {
    /// Ids, ascending.
    image_ids: Vec<u64>,
    num_thresholds: usize,
    classes: Vec<ClassSamples>,
    recalls: Vec<f64>,
}

#[derive(Debug, Clone, Default)]
struct ClassSamples {
    /// Objects of each image that has some.
    objects: Vec<(u32, u32)>,
    /// From the highest score down, in COCO's order of ties.
    detections: Vec<Match>,
}

#[derive(Debug, Clone, Copy)]
struct Match {
    image: u32,
    /// One bit per IoU threshold.
    is_correct: u16,
    is_ignored: u16,
}

impl ApSamples {
    pub(super) fn new(engine: &COCOeval) -> Self {
        let mut image_ids = engine.params.img_ids.clone();
        image_ids.sort_unstable();
        image_ids.dedup();
        let class_of: HashMap<u64, usize> =
            engine.params.cat_ids.iter().enumerate().map(|(at, &id)| (id, at)).collect();
        let mut cells: Vec<_> = engine.eval_imgs().iter().flatten().collect();
        cells.sort_by_key(|cell| cell.image_id);
        let num_thresholds = engine.params.iou_thrs.len();
        let mut classes = vec![ClassSamples::default(); class_of.len()];
        let mut scored: Vec<Vec<(f64, Match)>> = vec![Vec::new(); class_of.len()];
        for cell in cells {
            let class = class_of[&cell.category_id];
            let image = image_ids.binary_search(&cell.image_id).expect("cells are of the evaluation's images") as u32;
            let num_objects = cell.num_gt_in_denominator() as u32;
            if num_objects > 0 {
                classes[class].objects.push((image, num_objects));
            }
            let bits = |matrix: &hotcoco::ThreshMatrix<bool>, at: usize| {
                (0..num_thresholds).fold(0, |bits, row| bits | u16::from(matrix.row(row)[at]) << row)
            };
            scored[class].extend((0..cell.dt_ids.len()).map(|at| {
                let (is_correct, is_ignored) = (bits(&cell.dt_matched, at), bits(&cell.dt_ignore, at));
                (cell.dt_scores[at], Match { image, is_correct, is_ignored })
            }));
        }
        for (class, mut scored) in classes.iter_mut().zip(scored) {
            scored.sort_by(|(first, _), (second, _)| second.total_cmp(first));
            class.detections = scored.into_iter().map(|(_, found)| found).collect();
        }
        Self { image_ids, num_thresholds, classes, recalls: engine.params.rec_thrs.clone() }
    }

    /// AP with each image counted once: COCO's.
    pub fn ap(&self) -> ApTriple {
        self.weighted(&vec![1; self.image_ids.len()])
    }

    /// Intervals of [`Self::ap`] over `num_samples` draws of as many images as there are, with replacement.
    pub fn intervals(&self, num_samples: usize, seed: u64) -> [Option<Interval>; 3] {
        intervals(self.image_ids.len(), num_samples, seed, |weights| self.weighted(weights))
    }

    /// Intervals of `other`'s AP minus this one's, both on the same draws; none if the two are not of the same images.
    pub fn difference_intervals(&self, other: &Self, num_samples: usize, seed: u64) -> Option<[Option<Interval>; 3]> {
        (self.image_ids == other.image_ids).then(|| {
            intervals(self.image_ids.len(), num_samples, seed, |weights| {
                let (ours, theirs) = (self.weighted(weights), other.weighted(weights));
                std::array::from_fn(|at| Some(theirs[at]? - ours[at]?))
            })
        })
    }

    /// AP with image i counted `weights[i]` times.
    fn weighted(&self, weights: &[u32]) -> ApTriple {
        // Per threshold: the sum over classes with objects, and their number.
        let mut sums = vec![0.0; self.num_thresholds];
        let mut num_classes = 0;
        for class in &self.classes {
            let num_objects: u64 =
                class.objects.iter().map(|&(image, count)| u64::from(weights[image as usize]) * u64::from(count)).sum();
            if num_objects == 0 {
                continue;
            }
            num_classes += 1;
            for (threshold, sum) in sums.iter_mut().enumerate() {
                *sum += self.class_ap(class, threshold, weights, num_objects);
            }
        }
        let mean = |thresholds: &[f64]| {
            (num_classes > 0).then(|| thresholds.iter().sum::<f64>() / (thresholds.len() * num_classes) as f64)
        };
        [mean(&sums), mean(&sums[..1]), mean(&sums[5..6])]
    }

    /// Mean over the recalls of the best precision at that recall or beyond.
    fn class_ap(&self, class: &ClassSamples, threshold: usize, weights: &[u32], num_objects: u64) -> f64 {
        // Precision only falls between correct detections, so that these are all there is to look at.
        let mut points: Vec<(f64, f64)> = Vec::new();
        let (mut num_correct, mut num_wrong) = (0_u64, 0_u64);
        for found in &class.detections {
            let weight = u64::from(weights[found.image as usize]);
            if weight == 0 || found.is_ignored >> threshold & 1 == 1 {
                continue;
            }
            if found.is_correct >> threshold & 1 == 1 {
                num_correct += weight;
                let precision = num_correct as f64 / (num_correct + num_wrong) as f64;
                points.push((num_correct as f64 / num_objects as f64, precision));
            } else {
                num_wrong += weight;
            }
        }
        let mut best = 0.0_f64;
        for (_, precision) in points.iter_mut().rev() {
            best = best.max(*precision);
            *precision = best;
        }
        let mut at = 0;
        let mut sum = 0.0;
        for &recall in &self.recalls {
            while points.get(at).is_some_and(|&(reached, _)| reached < recall) {
                at += 1;
            }
            sum += points.get(at).map_or(0.0, |&(_, precision)| precision);
        }
        debug_assert_eq!(self.recalls.len(), NUM_RECALLS);
        sum / self.recalls.len() as f64
    }
}

fn intervals(
    num_images: usize,
    num_samples: usize,
    seed: u64,
    statistic: impl Fn(&[u32]) -> ApTriple + Sync,
) -> [Option<Interval>; 3] {
    let draws: Vec<ApTriple> = (0..num_samples)
        .into_par_iter()
        .map(|sample| {
            // Which thread draws which sample must not matter.
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(sample as u64);
            let mut weights = vec![0; num_images];
            (0..num_images).for_each(|_| weights[rng.random_range(0..num_images)] += 1);
            statistic(&weights)
        })
        .collect();
    std::array::from_fn(|at| {
        let mut values: Vec<f64> = draws.iter().filter_map(|draw| draw[at]).collect();
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then(|| Interval {
            lower: quantile(&values, (1.0 - CONFIDENCE) / 2.0),
            upper: quantile(&values, (1.0 + CONFIDENCE) / 2.0),
            share_positive: values.iter().filter(|value| **value > 0.0).count() as f64 / values.len() as f64,
        })
    })
}

/// As `numpy.quantile` interpolates by default.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() - 1) as f64 * share;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One class, one object an image; of `num_found` images it is found with certainty, of the others nothing is.
    fn coin(num_images: usize, num_found: usize) -> ApSamples {
        let objects = (0..num_images as u32).map(|image| (image, 1)).collect();
        let detections = (0..num_found as u32).map(|image| Match { image, is_correct: 0x3FF, is_ignored: 0 }).collect();
        ApSamples {
            image_ids: (0..num_images as u64).collect(),
            num_thresholds: 10,
            classes: vec![ClassSamples { objects, detections }],
            recalls: (0..NUM_RECALLS).map(|at| at as f64 / 100.0).collect(),
        }
    }

    #[test]
    fn an_image_drawn_twice_counts_twice() {
        let samples = coin(4, 2);
        // Recall 2/4 at precision 1: the 51 recalls up to 0.50. Drawn once more, 3/4 and 76 recalls.
        for (weights, num_recalls) in [([1, 1, 1, 1], 51.0), ([3, 0, 1, 0], 76.0), ([0, 0, 4, 0], 0.0)] {
            for ap in samples.weighted(&weights) {
                // The sum of ten equal numbers, divided by ten.
                assert!((ap.unwrap() - num_recalls / 101.0).abs() < 1e-15, "{weights:?}: {ap:?}");
            }
        }
    }

    #[test]
    fn the_interval_is_that_of_the_binomial_distribution() {
        // Recall is a binomial share: mean 0.5, standard deviation sqrt(0.25 / 100) = 0.05, so that the 2.5th and 97.5th
        // percentiles lie at 0.40 and 0.60. AP is the number of recalls k/100 <= share, over 101.
        let [interval, ..] = coin(100, 50).intervals(4000, 1);
        let interval = interval.unwrap();
        // A percentile of 4000 draws scatters by 0.003; shares come in steps of 0.01.
        assert!((interval.lower - 41.0 / 101.0).abs() < 0.011, "{interval:?}");
        assert!((interval.upper - 61.0 / 101.0).abs() < 0.011, "{interval:?}");
        assert_eq!(interval.share_positive, 1.0);
    }

    #[test]
    fn differences_are_paired() {
        // On every draw, the second finds what the first finds and the 50 images on top.
        let [interval, ..] = coin(100, 50).difference_intervals(&coin(100, 100), 500, 1).unwrap();
        let interval = interval.unwrap();
        assert!(interval.lower > 0.38 && interval.upper < 0.62, "{interval:?}");
        assert_eq!(interval.share_positive, 1.0);
        // With itself there is no difference, whatever is drawn: unpaired draws would scatter by 0.14.
        let [same, ..] = coin(100, 50).difference_intervals(&coin(100, 50), 500, 1).unwrap();
        assert_eq!(same.unwrap(), Interval { lower: 0.0, upper: 0.0, share_positive: 0.0 });
        assert!(coin(100, 50).difference_intervals(&coin(99, 50), 10, 1).is_none());
    }
}
