//! Cross-Iteration Batch Normalization.

mod config;
mod correction;
mod exact;
mod history;
mod sampling;

use burn::module::{Flag, Module, Param};
use burn::tensor::{Device, Tensor};

pub use self::config::{
    CbnConfig, Compensation, HistoryGradient, HistoryStorage, RunningStatistics, StatisticsScope, Validity,
    VarianceEstimate, Weighting, WindowOpening, WindowSpan,
};
use self::correction::PeerSite;
pub use self::correction::{Correction, FirstOrder, Uncorrected};
pub use self::exact::PastPatches;
pub use self::history::{Entry, History, Ring, Unrecorded};
use self::history::{Observation, Window};
use super::ConvSite;
use super::buffer::{Buffer, Counter};
use super::statistics::{Epsilon, Moments, Running, unbiased_correction};
use crate::ops::{ChannelStatistics, normalize};
use crate::{Activation, FeatureMap};

/// Batch norm whose statistics span the last iterations, each corrected for the change of the weight since
/// ([Yao et al., CVPR 2021](https://arxiv.org/abs/2002.05712)).
///
/// ```text
/// mu = sum_s share_s * mu_s(w)      mu_s(w) = pbar_s . w
/// nu = sum_s share_s * nu_s(w)      nu_s(w) = nu_s + G_s . (w - w_s)
/// out = gamma * (y - mu) / sqrt(nu - mu^2 + eps) + beta
/// ```
///
/// `pbar_s` is the mean input patch of iteration s and `G_s` the gradient of its second moment (docs/cbn.md). The shares of an
/// iteration sum to 1 over those that are valid in a channel. [`CbnConfig`] holds every choice.
///
/// A forward pass on a training device is a training iteration: it counts, and is remembered. Several before an optimiser's step,
/// as in gradient accumulation, are as many iterations under one weight.
///
/// Counter and history are state of the module:
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use cbn::{CbnConfig, ConvNormConfig, Norm, NormConfig};
///
/// let device = Device::flex().autodiff();
/// let norm = CbnConfig { window: 4, burn_in_iterations: 2, ..CbnConfig::paper() };
/// let block = ConvNormConfig::new([3, 8], [3, 3]).with_norm(NormConfig::CrossIteration(norm)).init(&device);
/// let state = || match &block.norm {
///     Norm::CrossIteration(norm) => (norm.iteration.get(), norm.history.ring().filled.get()),
///     _ => unreachable!("configured so"),
/// };
/// let states = [(); 6].map(|()| {
///     block.forward_nchw(Tensor::random([2, 3, 9, 9], Distribution::Default, &device));
///     state()
/// });
/// // (iterations, past iterations kept): two of burn-in, then the window fills.
/// assert_eq!(states, [(1, 0), (2, 0), (3, 1), (4, 2), (5, 3), (6, 3)]);
/// ```
#[derive(Module, Debug)]
pub struct CrossIterationBatchNorm {
    /// Scale, `[C]`.
    pub gamma: Option<Param<Tensor<1>>>,
    /// Shift, `[C]`.
    pub beta: Option<Param<Tensor<1>>>,
    /// Off where the layer was frozen: it then uses the running statistics.
    pub training: Param<Flag>,
    /// Running mean, `[C]`.
    pub running_mean: Buffer<1>,
    /// Running unbiased variance, `[C]`.
    pub running_var: Buffer<1>,
    /// Training iterations seen.
    pub iteration: Counter,
    /// The past iterations of the window.
    pub history: History,
    /// The choices.
    #[module(skip)]
    pub config: CbnConfig,
}

impl CrossIterationBatchNorm {
    /// Normalises, by the window's statistics on a training device, else by the running ones; the activation follows. A map without a position
    /// anywhere is no iteration.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C]` to the same.
    pub fn forward(&self, y: FeatureMap, site: &ConvSite<'_>, activation: Activation) -> FeatureMap {
        let affine = self.affine();
        if !self.has_batch_statistics(&y.device()) {
            return normalize(y, affine, self.running().statistics(self.epsilon()), activation);
        }
        let peers = &self.config.peers;
        let (moments, positions) = Moments::over(&y, peers);
        if positions == 0 {
            return y;
        }
        let iteration = self.iteration.increment();
        let open = self.config.open_window(iteration);
        let mut samples = [y.batch() as f64];
        peers.sum_f64(&mut samples);
        let observation = Observation { moments, positions, samples: samples[0] as usize, iteration };
        let window = if open == 0 {
            Window::of_current(&observation)
        } else {
            self.history.aggregate(&observation, site.weight, &self.config)
        };
        let remembered = self.config.remembered(iteration);
        if remembered > 0 {
            self.history.push(&observation, &y, &PeerSite { site, peers }, remembered);
        }
        self.observe(&observation, &window);
        // An open window has the biased variance, also while it holds the current iteration alone.
        let correction = match self.config.closed_window_variance {
            VarianceEstimate::Unbiased if open == 0 => unbiased_correction(observation.positions),
            _ => 1.0,
        };
        let statistics = window.moments.statistics(self.epsilon(), window.share, correction);
        normalize(y, affine, ChannelStatistics { peers: peers.clone(), ..statistics }, activation)
    }

    fn observe(&self, observation: &Observation, window: &Window) {
        let (mean, var) = match self.config.running_statistics {
            RunningStatistics::Current => {
                let Moments { mean, var } = observation.moments.clone();
                (mean, var * unbiased_correction(observation.positions))
            }
            RunningStatistics::Window => {
                let Moments { mean, var } = window.moments.without_autodiff();
                let positions = window.positions.clone();
                (mean, var * positions.clone() / (positions - 1.0).clamp_min(1.0))
            }
        };
        self.running().observe(mean, var, self.config.momentum);
    }

    /// Gamma and beta, `[C]`.
    fn affine(&self) -> [Tensor<1>; 2] {
        match (&self.gamma, &self.beta) {
            (Some(gamma), Some(beta)) => [gamma.val(), beta.val()],
            _ => [self.running_mean.value().ones_like(), self.running_mean.value().zeros_like()],
        }
    }

    /// Whether the next forward pass on this device can use a second gradient that the convolution's backward pass leaves.
    pub(super) fn wants_second_gradient(&self, device: &Device) -> bool {
        self.has_batch_statistics(device)
            && self.config.remembered(self.iteration.get() + 1) > 0
            && self.history.wants_second_gradient()
    }

    /// Whether it normalises a map on this device by the window's statistics.
    pub(super) fn has_batch_statistics(&self, device: &Device) -> bool {
        device.is_autodiff() && self.training.is_enabled()
    }

    fn running(&self) -> Running<'_> {
        Running { mean: &self.running_mean, var: &self.running_var }
    }

    fn epsilon(&self) -> Epsilon {
        Epsilon { value: self.config.epsilon, place: self.config.epsilon_place }
    }

    /// Scale and shift of inference, `[C]` each.
    pub(super) fn inference_affine(&self) -> [Tensor<1>; 2] {
        let [gamma, beta] = self.affine();
        self.running().affine(self.epsilon(), &gamma, &beta)
    }
}
