//! The learning rate as a function of the iteration.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// Linear warm-up, then a rate that drops by `gamma` at each step or follows half a cosine.
///
/// ```text
/// lr(i) = base * d(i) * w(i)
/// d(i)  = gamma^n(i), n(i) = how many of `drops` are <= i
/// d(i)  = r + (1 - r) * (1 + cos(pi * i / num_iterations)) / 2          with `cosine`, r = final_ratio
/// w(i)  = 1 - (1 - i / warmup_iterations) * (1 - warmup_ratio)   for i < warmup_iterations, else 1
/// ```
///
/// `i` counts from 0. Source: mmcv 0.2 `LrUpdaterHook` with `policy = "step"`, `warmup = "linear"`, which the released
/// recipes use. The cosine is that of SGDR without restarts (Loshchilov and Hutter 2017, equation 5), PyTorch 2.11 `CosineAnnealingLR`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The rate after warm-up and before the first drop.
    pub base_learning_rate: f64,
    /// Iterations of warm-up; 0 for none.
    pub warmup_iterations: usize,
    /// The first iteration's share of the base rate.
    pub warmup_ratio: f64,
    /// Iterations from which on the rate is lower, ascending.
    pub drops: Vec<usize>,
    /// What each drop multiplies the rate with.
    pub gamma: f64,
    /// Half a cosine over the whole run; then there are no drops.
    pub cosine: Option<CosineConfig>,
}

/// Half a cosine from the base rate down.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CosineConfig {
    /// From crest to trough.
    pub num_iterations: usize,
    /// The share of the base rate that is left at the end.
    pub final_ratio: f64,
}

impl CosineConfig {
    fn factor(self, iteration: usize) -> f64 {
        let progress = (iteration as f64 / self.num_iterations as f64).min(1.0);
        self.final_ratio + (1.0 - self.final_ratio) * (1.0 + (PI * progress).cos()) / 2.0
    }
}

impl ScheduleConfig {
    /// The learning rate of an iteration, counted from 0.
    pub fn learning_rate(&self, iteration: usize) -> f64 {
        let num_drops = self.drops.iter().filter(|&&drop| drop <= iteration).count();
        let dropped = self.base_learning_rate * self.gamma.powi(num_drops as i32);
        dropped * self.cosine.map_or(1.0, |cosine| cosine.factor(iteration)) * self.warmup_factor(iteration)
    }

    fn warmup_factor(&self, iteration: usize) -> f64 {
        if iteration >= self.warmup_iterations {
            return 1.0;
        }
        let progress = iteration as f64 / self.warmup_iterations as f64;
        1.0 - (1.0 - progress) * (1.0 - self.warmup_ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released() -> ScheduleConfig {
        ScheduleConfig {
            base_learning_rate: 0.02,
            warmup_iterations: 500,
            warmup_ratio: 1.0 / 3.0,
            drops: vec![8 * 7330, 11 * 7330],
            gamma: 0.1,
            cosine: None,
        }
    }

    /// Both sides are a few f64 operations on numbers near 0.02.
    #[track_caller]
    fn assert_rate(config: &ScheduleConfig, iteration: usize, expected: f64) {
        let rate = config.learning_rate(iteration);
        assert!((rate - expected).abs() < 1e-15, "iteration {iteration}: {rate}, expected {expected}");
    }

    #[test]
    fn warm_up_starts_at_its_ratio_and_is_linear() {
        assert_rate(&released(), 0, 0.02 / 3.0);
        assert_rate(&released(), 250, 0.02 * 2.0 / 3.0);
        assert_rate(&released(), 499, 0.02 * (1.0 - (1.0 / 500.0) * (2.0 / 3.0)));
        assert_rate(&released(), 500, 0.02);
    }

    #[test]
    fn the_rate_drops_on_the_iteration_itself() {
        assert_rate(&released(), 8 * 7330 - 1, 0.02);
        assert_rate(&released(), 8 * 7330, 0.002);
        assert_rate(&released(), 11 * 7330 - 1, 0.002);
        assert_rate(&released(), 11 * 7330, 0.0002);
    }

    #[test]
    fn a_cosine_falls_from_the_base_rate_to_its_final_share() {
        let cosine = Some(CosineConfig { num_iterations: 1000, final_ratio: 0.1 });
        let config = ScheduleConfig { warmup_iterations: 0, drops: Vec::new(), cosine, ..released() };
        assert_rate(&config, 0, 0.02);
        // cos(pi / 3) = 1/2, cos(pi / 2) = 0, cos(pi) = -1.
        let near = |iteration, share: f64| {
            let rate = config.learning_rate(iteration);
            assert!((rate - 0.02 * (0.1 + 0.9 * share)).abs() < 1e-5, "iteration {iteration}: {rate}");
        };
        near(333, 0.75);
        assert_rate(&config, 500, 0.02 * 0.55);
        assert_rate(&config, 1000, 0.002);
    }

    #[test]
    fn no_warm_up_means_the_base_rate_at_once() {
        let config = ScheduleConfig { warmup_iterations: 0, ..released() };
        assert_rate(&config, 0, 0.02);
    }

    #[test]
    fn a_drop_within_the_warm_up_counts() {
        let config = ScheduleConfig { drops: vec![100], ..released() };
        assert_rate(&config, 100, 0.002 * (1.0 - (1.0 - 0.2) * (2.0 / 3.0)));
    }
}
