//! Every choice that a cross-iteration norm leaves open, and the presets.

use burn::module::{Initializer, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::CrossIterationBatchNorm;
use super::history::History;
use crate::norm::EpsilonPlace;
use crate::norm::buffer::{Buffer, Counter};
use crate::process_group::Peers;

/// Configuration of [`CrossIterationBatchNorm`].
///
/// It holds no channel count: the norm takes it from the convolution, so that one configuration serves every layer of a model.
///
/// A preset and what differs from it:
///
/// ```
/// use cbn::CbnConfig;
/// use cbn::norm::cbn::HistoryStorage;
///
/// let config = CbnConfig {
///     window: 8,
///     burn_in_iterations: 1000,
///     derivative_sampling: 4,
///     history: HistoryStorage::Refill,
///     ..CbnConfig::default()
/// };
/// assert_eq!(config.epsilon, 1e-5);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CbnConfig {
    /// Iterations whose statistics count, the current one included. 1 is batch norm.
    pub window: usize,
    /// Whether the window has a second limit, in samples.
    pub span: WindowSpan,
    /// Training iterations at the start during which the window is closed or opens.
    pub burn_in_iterations: usize,
    /// How the window opens.
    pub opening: WindowOpening,
    /// How past moments are brought to the current weight.
    pub compensation: Compensation,
    /// Whether the weight's gradient knows of the past moments: it does by default, not in the presets.
    pub history_gradient: HistoryGradient,
    /// What becomes of past moments with a negative variance.
    pub validity: Validity,
    /// How much an iteration counts.
    pub weighting: Weighting,
    /// An iteration counts so many times what the next one counts. 1 is no fading.
    pub fading: f64,
    /// The second moment's gradient is estimated from every n-th output position; 1 takes all. See [`Compensation::FirstOrder`].
    pub derivative_sampling: usize,
    /// The variance that normalises while the window is closed.
    pub closed_window_variance: VarianceEstimate,
    /// Added to the variance or to the standard deviation.
    pub epsilon: f64,
    /// To which.
    pub epsilon_place: EpsilonPlace,
    /// The weight of the newest observation in the running statistics.
    pub momentum: f64,
    /// What the running statistics follow.
    pub running_statistics: RunningStatistics,
    /// Whether there are a scale gamma and a shift beta.
    pub affine: bool,
    /// Whether a record of the module holds the past iterations.
    pub history: HistoryStorage,
    /// Whose iterations they are, where several processes train together.
    pub scope: StatisticsScope,
    /// Those processes. No part of a file: see [`NormConfig::among`](crate::NormConfig::among). Default: this one alone.
    #[serde(skip)]
    pub peers: Peers,
}

/// How far back the window goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum WindowSpan {
    /// [`CbnConfig::window`] iterations, whatever their size.
    Iterations {},
    /// Of those, as many of the newest as have at most `at_most` samples together, the current iteration's included. An iteration
    /// that does not fit whole does not count, nor does any older one; the current one always counts.
    Samples {
        /// Images, or regions in a head: the first dimension of the map.
        at_most: usize,
    },
}

impl Default for WindowSpan {
    fn default() -> Self {
        Self::Iterations {}
    }
}

/// How the window opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowOpening {
    /// Closed during the burn-in, all open after it. `two_stage` of the released layer.
    #[default]
    AtOnce,
    /// In iteration i of a burn-in of b, `floor((window - 1) * i / b)` past iterations count.
    Linear,
    /// Closed during the burn-in, but its iterations are remembered: the window is full when it opens.
    Warm,
}

/// How the moments of a past iteration are brought to the current weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Compensation {
    /// Not at all: the naive average. Costs neither time nor memory.
    None {},
    /// By `rho` times the first-order Taylor term, in this layer's weight. 1 is the method.
    ///
    /// The mean's term is exact for the past input. The second moment's needs one convolution weight gradient G an iteration;
    /// [`CbnConfig::derivative_sampling`] = n takes it from every n-th image or strip of rows, starting at another one each iteration, for 1/n of
    /// the cost. Its mean over the starts is G if n divides the strips or images and no strip overlaps another; else some rows count a little
    /// more. Its variance is that of a mean over one n-th of the strips or images, not of the positions: neighbours are alike. The moments
    /// themselves, and the mean's derivative, are always from all positions.
    FirstOrder {
        /// Strength of the correction.
        rho: f64,
    },
    /// Exactly, for a random sample of the past input's patches that is replayed through the current weight. The variance cannot come out
    /// negative. Costs `positions * D * C_out` multiplications a past iteration, or `D * D * C_out` where D is smaller, and as many numbers.
    ///
    /// The sample depends on the iteration's number only, which is state.
    Exact {
        /// Patches that are sampled of an iteration; all of it where it has no more.
        positions: usize,
    },
}

/// Whether the past moments, which are functions of the current weight, pass their gradient to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryGradient {
    /// They are constants: the gradient flows through the current iteration's share only, as in the paper and the released layer.
    #[default]
    None,
    /// `dL/dw += sum_s share_s * (dL/dmu * pbar_s + dL/dnu * G_s)`, valid entries only; docs/cbn.md tells why.
    ThroughWeight,
}

/// What becomes of a past iteration whose compensated moments have `nu < mu^2` in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    /// It does not count in that channel, as in the released layer.
    #[default]
    Discard,
    /// Its nu is replaced by mu^2.
    ClampToMean,
}

/// How much an iteration counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// By its output positions: batches of other sizes, a varying number of regions.
    #[default]
    Positions,
    /// Equally, as in the released layer.
    Iterations,
}

/// Which estimate of the variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceEstimate {
    /// Divided by M, as batch norm normalises.
    #[default]
    Biased,
    /// Divided by M - 1, as the released layer does.
    Unbiased,
}

/// What the running statistics follow; the variance is the unbiased one in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunningStatistics {
    /// The current batch, as in the released layer.
    #[default]
    Current,
    /// The whole window.
    Window,
}

/// Whether a record of the module holds the past iterations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryStorage {
    /// Yes: a training that was stopped goes on bit for bit.
    #[default]
    Saved,
    /// No: records are small, and after a load the window fills anew.
    Refill,
}

/// Whose statistics they are, where several processes train together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatisticsScope {
    /// Each process's own, as in the released layer.
    #[default]
    Process,
    /// Of all processes together: the moments of each iteration and their derivatives are reduced over the group, which sends twice as many
    /// values as the layer has weights in each iteration. Not with [`Compensation::Exact`].
    Group,
}

/// The paper's method, except that past moments pass their gradient to the weight ([`HistoryGradient::ThroughWeight`]): it trains CIFAR-10
/// better than the paper's form at every batch size of docs/results.md.
impl Default for CbnConfig {
    fn default() -> Self {
        Self { history_gradient: HistoryGradient::ThroughWeight, ..Self::paper() }
    }
}

impl CbnConfig {
    /// The method of the paper with batch norm's definitions: eps 1e-5 inside the root, the biased variance, four iterations, no burn-in,
    /// entries with `nu < mu^2` discarded, momentum 0.1.
    pub fn paper() -> Self {
        Self {
            window: 4,
            span: WindowSpan::default(),
            burn_in_iterations: 0,
            opening: WindowOpening::AtOnce,
            compensation: Compensation::FirstOrder { rho: 1.0 },
            history_gradient: HistoryGradient::None,
            validity: Validity::Discard,
            weighting: Weighting::Positions,
            fading: 1.0,
            derivative_sampling: 1,
            closed_window_variance: VarianceEstimate::Biased,
            epsilon: 1e-5,
            epsilon_place: EpsilonPlace::InsideRoot,
            momentum: 0.1,
            running_statistics: RunningStatistics::Current,
            affine: true,
            history: HistoryStorage::Saved,
            scope: StatisticsScope::Process,
            peers: Peers::default(),
        }
    }

    /// What the released PyTorch layer does (Howal/Cross-iterationBatchNorm, commit f6d3530) with `buffer_num = 3`: eps outside the root,
    /// the unbiased variance while the window is closed, iterations count equally.
    ///
    /// Its `buffer_num` is `window - 1`, its `burnin` [`burn_in_iterations`](Self::burn_in_iterations), `two_stage = False`
    /// [`WindowOpening::Linear`], `out_p = True` [`EpsilonPlace::InsideRoot`]; `FROZEN = True` is a
    /// [`FrozenNorm`](crate::norm::FrozenNorm) with eps outside. It differs from this preset where it divides by zero: constant channels.
    pub fn published() -> Self {
        Self {
            weighting: Weighting::Iterations,
            closed_window_variance: VarianceEstimate::Unbiased,
            epsilon_place: EpsilonPlace::OutsideRoot,
            ..Self::paper()
        }
    }

    /// A norm behind a convolution whose weight is `[C_out, C_in / groups, kh, kw]`.
    ///
    /// # Panics
    ///
    /// If the window, its span in samples, the derivative sampling or the positions of an exact compensation are 0, the fading is negative, or an
    /// exact compensation is asked for over a group.
    pub fn init(&self, weight_shape: [usize; 4], groups: usize, device: &Device) -> CrossIterationBatchNorm {
        assert!(self.window > 0, "a window counts the current iteration, so it is at least 1");
        assert!(self.span != WindowSpan::Samples { at_most: 0 }, "a span holds at least one sample");
        assert!(self.derivative_sampling > 0, "every n-th position is taken, so n is at least 1");
        assert!(self.compensation != Compensation::Exact { positions: 0 }, "at least one patch is sampled");
        assert!(self.fading >= 0.0, "weights are not negative, found a fading of {}", self.fading);
        let is_exact = matches!(self.compensation, Compensation::Exact { .. });
        assert!(!is_exact || self.scope == StatisticsScope::Process, "patches are sampled of one process's inputs");
        let channels = weight_shape[0];
        let affine =
            |start: Initializer| -> Option<Param<Tensor<1>>> { self.affine.then(|| start.init([channels], device)) };
        CrossIterationBatchNorm {
            gamma: affine(Initializer::Ones),
            beta: affine(Initializer::Zeros),
            training: Param::from_bool(true),
            running_mean: Buffer::new(Tensor::zeros([channels], device)),
            running_var: Buffer::new(Tensor::ones([channels], device)),
            iteration: Counter::new(),
            history: History::new(self, weight_shape, groups, device),
            config: self.clone(),
        }
    }

    /// How many past iterations count in training iteration `iteration`, the first being 1.
    pub(super) fn open_window(&self, iteration: usize) -> usize {
        let past = self.window - 1;
        match self.opening {
            WindowOpening::AtOnce | WindowOpening::Warm if iteration > self.burn_in_iterations => past,
            WindowOpening::AtOnce | WindowOpening::Warm => 0,
            WindowOpening::Linear if iteration >= self.burn_in_iterations => past,
            // In f64, as the released layer computes it.
            WindowOpening::Linear => (past as f64 * (iteration as f64 / self.burn_in_iterations as f64)) as usize,
        }
    }

    /// How many iterations, this one included, are remembered after it.
    pub(super) fn remembered(&self, iteration: usize) -> usize {
        match self.opening {
            WindowOpening::Warm => self.window - 1,
            WindowOpening::AtOnce | WindowOpening::Linear => self.open_window(iteration),
        }
    }
}
