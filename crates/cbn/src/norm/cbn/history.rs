//! What is kept of past iterations, and the statistics of the window.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::config::{CbnConfig, HistoryGradient, HistoryStorage, Validity, Weighting, WindowSpan};
use super::correction::{Correction, PeerSite};
use crate::FeatureMap;
use crate::context::{beside, plain};
use crate::norm::buffer::{Buffer, Counter};
use crate::norm::statistics::Moments;

/// The current iteration, before it is history.
pub(super) struct Observation {
    /// Of its output, without autodiff.
    pub moments: Moments,
    /// Values a channel.
    pub positions: usize,
    /// Images or regions.
    pub samples: usize,
    /// Its number, from 1.
    pub iteration: usize,
}

/// What a window agrees on.
pub(super) struct Window {
    /// Mean and variance, `[C]`; functions of the weight where its gradient is to know of the history.
    pub moments: Moments,
    /// The weight of the current iteration in the mean and the second moment, `[C]`.
    pub share: Tensor<1>,
    /// Values that count, `[C]`.
    pub positions: Tensor<1>,
}

impl Window {
    /// The current iteration alone.
    pub fn of_current(observation: &Observation) -> Self {
        let moments = observation.moments.clone();
        let share = moments.mean.ones_like();
        Self { moments, positions: share.clone() * observation.positions as f64, share }
    }
}

/// The past iterations of the window.
#[derive(Module, Debug)]
pub enum History {
    /// Recorded with the module.
    Saved(Ring),
    /// Not recorded.
    Refill(Unrecorded),
}

/// Past iterations that a record of the module leaves out.
#[derive(Module, Debug)]
pub struct Unrecorded {
    /// The past iterations.
    #[module(skip)]
    pub ring: Ring,
}

/// The newest iterations in a ring of fixed size, so that a record holds them like any other state.
#[derive(Module, Debug)]
pub struct Ring {
    /// `window - 1` places.
    pub entries: Vec<Entry>,
    /// The place of the next iteration.
    pub next: Counter,
    /// How many of the newest count.
    pub filled: Counter,
}

/// One past iteration.
#[derive(Module, Debug)]
pub struct Entry {
    /// The mean of its output, `[C_out]`.
    pub mean: Buffer<1>,
    /// The biased variance, `[C_out]`.
    pub var: Buffer<1>,
    /// Values a channel.
    pub positions: Counter,
    /// Images or regions, where the window's span is counted in them.
    pub samples: Option<Counter>,
    /// What brings them to another weight.
    pub correction: Correction,
}

impl History {
    /// An empty history of a convolution with this weight, `[C_out, C_in / groups, kh, kw]`.
    pub(super) fn new(config: &CbnConfig, weight_shape: [usize; 4], groups: usize, device: &Device) -> Self {
        let entry = || Entry {
            mean: Buffer::new(Tensor::zeros([weight_shape[0]], device)),
            var: Buffer::new(Tensor::zeros([weight_shape[0]], device)),
            positions: Counter::new(),
            samples: matches!(config.span, WindowSpan::Samples { .. }).then(Counter::new),
            correction: Correction::new(config, weight_shape, groups, device),
        };
        let entries = std::iter::repeat_with(entry).take(config.window - 1).collect();
        let ring = Ring { entries, next: Counter::new(), filled: Counter::new() };
        match config.history {
            HistoryStorage::Saved => Self::Saved(ring),
            HistoryStorage::Refill => Self::Refill(Unrecorded { ring }),
        }
    }

    /// The past iterations.
    pub fn ring(&self) -> &Ring {
        match self {
            Self::Saved(ring) | Self::Refill(Unrecorded { ring }) => ring,
        }
    }

    /// Whether it can use a second gradient that the convolution's backward pass leaves.
    pub(super) fn wants_second_gradient(&self) -> bool {
        self.ring().entries.first().is_some_and(|entry| entry.correction.wants_second_gradient())
    }

    /// The statistics of the current and the past iterations under `weight`, `[C_out, C_in / groups, kh, kw]`.
    pub(super) fn aggregate(&self, current: &Observation, weight: &Tensor<4>, config: &CbnConfig) -> Window {
        let past = self.ring().newest_within(config.span, current.samples);
        if past.is_empty() {
            return Window::of_current(current);
        }
        let weight = match config.history_gradient {
            HistoryGradient::ThroughWeight => weight.clone(),
            HistoryGradient::None => plain(weight.clone()),
        };
        let [out_channels, group_in, kernel_height, kernel_width] = weight.dims();
        let weight = weight.reshape([out_channels, group_in * kernel_height * kernel_width]);
        let moments: Vec<Moments> = past.iter().map(|entry| entry.moments(&weight)).collect();
        let positions: Vec<usize> = past.iter().map(|entry| entry.positions.get()).collect();
        Past::new(moments, positions, config).join(current, config)
    }

    /// Remembers the current iteration in the place of the oldest; from now on the newest `open` count.
    pub(super) fn push(&self, current: &Observation, y: &FeatureMap, site: &PeerSite<'_>, open: usize) {
        let ring = self.ring();
        let place = ring.next.get();
        let entry = &ring.entries[place];
        entry.mean.set(current.moments.mean.clone());
        entry.var.set(current.moments.var.clone());
        entry.positions.set(current.positions);
        if let Some(samples) = &entry.samples {
            samples.set(current.samples);
        }
        entry.correction.store(y, site, current.iteration);
        ring.next.set((place + 1) % ring.entries.len());
        ring.filled.set((ring.filled.get() + 1).min(open));
    }
}

impl Ring {
    /// The entries that count beside a current iteration of so many samples, the newest first.
    fn newest_within(&self, span: WindowSpan, mut samples: usize) -> Vec<&Entry> {
        let (places, next) = (self.entries.len(), self.next.get());
        let newest = (1..=self.filled.get()).map(|age| &self.entries[(next + places - age) % places]);
        let fits = |entry: &&Entry| match (span, &entry.samples) {
            (WindowSpan::Samples { at_most }, Some(of_entry)) => {
                samples = samples.saturating_add(of_entry.get());
                samples <= at_most
            }
            _ => true,
        };
        newest.take_while(fits).collect()
    }
}

impl Entry {
    /// Mean and variance under `weight`, `[C_out, D]`; differentiable in it if it is.
    fn moments(&self, weight: &Tensor<2>) -> Moments {
        let device = weight.device();
        let then = Moments { mean: self.mean.value_beside(&device), var: self.var.value_beside(&device) };
        self.correction.apply(then, weight)
    }
}

/// Past moments under one weight, `[F, C]` each, and which of them count.
struct Past {
    mean: Tensor<2>,
    var: Tensor<2>,
    /// 1 where an entry counts in a channel, else 0.
    is_valid: Tensor<2>,
    positions: Vec<usize>,
}

impl Past {
    fn new(moments: Vec<Moments>, positions: Vec<usize>, config: &CbnConfig) -> Self {
        let (mean, var): (Vec<_>, Vec<_>) = moments.into_iter().map(|moments| (moments.mean, moments.var)).unzip();
        let (mean, var): (Tensor<2>, Tensor<2>) = (Tensor::stack(mean, 0), Tensor::stack(var, 0));
        match config.validity {
            Validity::ClampToMean => {
                let is_valid = var.ones_like().detach();
                Self { mean, var: var.clamp_min(0.0), is_valid, positions }
            }
            Validity::Discard => {
                // True for NaN as well, which a product with 0 would keep.
                let is_invalid = var.clone().greater_equal_elem(0.0).bool_not();
                let is_valid = is_invalid.clone().bool_not().float();
                let (mean, var) = (mean.mask_fill(is_invalid.clone(), 0.0), var.mask_fill(is_invalid, 0.0));
                Self { mean, var, is_valid, positions }
            }
        }
    }

    /// Averages: `mean = sum share mean_s`, `var = sum share (var_s + (mean_s - mean)^2)`, which is `nu - mean^2` without its cancellation.
    fn join(self, current: &Observation, config: &CbnConfig) -> Window {
        let device = self.mean.device();
        let weigh = |positions: usize| match config.weighting {
            Weighting::Positions => positions as f32,
            Weighting::Iterations => 1.0,
        };
        let aged = |(age, positions): (usize, &usize)| weigh(*positions) * (config.fading as f32).powi(age as i32 + 1);
        let column = |values: Vec<f32>| Tensor::<1>::from_floats(values.as_slice(), &device).unsqueeze_dim::<2>(1);
        let weights = self.is_valid.clone() * column(self.positions.iter().enumerate().map(aged).collect());
        let sum = |x: Tensor<2>| x.sum_dim(0).squeeze_dim::<1>(0);

        let total = sum(weights.clone()) + weigh(current.positions);
        let share = total.clone().recip() * weigh(current.positions);
        let shares = weights / total.unsqueeze_dim(0);
        let now = [&current.moments.mean, &current.moments.var].map(|x| beside(x.clone(), &device));
        let mean = sum(shares.clone() * self.mean.clone()) + share.clone() * now[0].clone();
        let spread = (self.mean - mean.clone().unsqueeze_dim(0)).square();
        let distance = (now[0].clone() - mean.clone()).square();
        let var = sum(shares * (self.var + spread)) + share.clone() * (now[1].clone() + distance);
        let counted = sum(self.is_valid * column(self.positions.iter().map(|&n| n as f32).collect()));
        Window {
            moments: Moments { mean, var },
            share: plain(share),
            positions: plain(counted + current.positions as f64),
        }
    }
}
