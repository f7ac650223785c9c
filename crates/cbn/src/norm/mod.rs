//! The norms, and the one place that tells them apart.

mod batch;
mod buffer;
pub mod cbn;
mod frozen;
mod group;
mod statistics;
mod transfer;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

pub use self::batch::{BatchNorm, BatchNormConfig};
pub use self::buffer::{Buffer, Counter};
pub use self::cbn::{CbnConfig, CrossIterationBatchNorm};
pub use self::frozen::{FrozenNorm, FrozenNormConfig};
pub use self::group::{GroupNorm, GroupNormConfig};
pub use self::statistics::EpsilonPlace;
pub(crate) use self::transfer::TrainedBatchNorm;
use crate::ops::SecondGradientCell;
use crate::process_group::Peers;
use crate::{Activation, ConvGeometry, FeatureMap};

/// The convolution whose output is being normalised.
pub struct ConvSite<'a> {
    /// What the convolution read, `[B, H, W, C_in]`.
    pub input: &'a FeatureMap,
    /// Its weight, `[C_out, C_in / groups, kh, kw]`.
    pub weight: &'a Tensor<4>,
    /// How it walked over the input.
    pub geometry: &'a ConvGeometry,
    /// Where its backward pass leaves the gradient of the output's second moment, if the norm [asked](Norm::wants_second_gradient) for it.
    pub second_gradient: Option<&'a SecondGradientCell>,
}

/// Which norm follows a convolution: a value, so that a model is written once for all norms.
///
/// It reads from any serde format, strictly; what a table leaves out has its default:
///
/// ```
/// use cbn::{CbnConfig, NormConfig};
///
/// let norm: NormConfig = serde_json::from_str(r#"{ "kind": "cross_iteration", "window": 8 }"#)?;
/// assert_eq!(norm, NormConfig::CrossIteration(CbnConfig { window: 8, ..CbnConfig::default() }));
/// assert!(serde_json::from_str::<NormConfig>(r#"{ "kind": "cross_iteration", "windows": 8 }"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NormConfig {
    /// None; the convolution has a bias.
    Identity,
    /// Fixed statistics.
    Frozen(FrozenNormConfig),
    /// Batch norm.
    Batch(BatchNormConfig),
    /// Batch norm over all processes, see [`among`](Self::among); with one process it is `Batch`.
    Sync(BatchNormConfig),
    /// Group norm.
    Group(GroupNormConfig),
    /// Cross-Iteration Batch Normalization.
    CrossIteration(CbnConfig),
}

impl NormConfig {
    /// The same among `peers`: a `Sync` norm, and a cross-iteration norm of [`StatisticsScope::Group`](cbn::StatisticsScope::Group), take
    /// the statistics of all of them. The others normalise each process's maps for themselves.
    #[must_use]
    pub fn among(self, peers: &Peers) -> Self {
        let peers = peers.clone();
        match self {
            Self::Sync(config) => Self::Sync(BatchNormConfig { peers, ..config }),
            Self::CrossIteration(config) if config.scope == cbn::StatisticsScope::Group => {
                Self::CrossIteration(CbnConfig { peers, ..config })
            }
            other => other,
        }
    }

    /// Makes the norm of a convolution whose weight is `[C_out, C_in / groups, kh, kw]`.
    ///
    /// # Panics
    ///
    /// If the group norm's groups do not divide the channels, or the window or the derivative sampling of a cross-iteration norm is 0.
    pub fn init(&self, weight_shape: [usize; 4], groups: usize, device: &Device) -> Norm {
        let channels = weight_shape[0];
        match self {
            Self::Identity => Norm::Identity(Identity),
            Self::Frozen(config) => Norm::Frozen(config.init(channels, device)),
            Self::Batch(config) => Norm::Batch(config.init(channels, device)),
            Self::Sync(config) => Norm::Sync(config.init(channels, device)),
            Self::Group(config) => Norm::Group(config.init(channels, device)),
            Self::CrossIteration(config) => Norm::CrossIteration(config.init(weight_shape, groups, device)),
        }
    }
}

/// No norm.
#[derive(Module, Debug)]
pub struct Identity;

/// A norm. Outside this module nobody asks which one it is.
#[derive(Module, Debug)]
pub enum Norm {
    /// None.
    Identity(Identity),
    /// Fixed statistics.
    Frozen(FrozenNorm),
    /// Batch norm.
    Batch(BatchNorm),
    /// Batch norm over all processes.
    Sync(BatchNorm),
    /// Group norm.
    Group(GroupNorm),
    /// Cross-Iteration Batch Normalization.
    CrossIteration(CrossIterationBatchNorm),
}

impl Norm {
    /// What stands for the kind in the path of a norm's tensor, as in `norm.Batch.gamma`.
    pub const KINDS: [&str; 5] = ["Frozen", "Batch", "Sync", "Group", "CrossIteration"];

    /// Normalises the output `y` of the convolution at `site`; the activation follows.
    ///
    /// # Shapes
    ///
    /// `[B, H, W, C]` to the same.
    pub fn forward(&self, y: FeatureMap, site: &ConvSite<'_>, activation: Activation) -> FeatureMap {
        match self {
            Self::Identity(_) if activation.is_relu() => y.relu(),
            Self::Identity(_) => y,
            Self::Frozen(norm) => norm.forward(y, activation),
            Self::Batch(norm) | Self::Sync(norm) => norm.forward(y, activation),
            Self::Group(norm) => norm.forward(y, activation),
            Self::CrossIteration(norm) => norm.forward(y, site, activation),
        }
    }

    /// Whether the next forward pass on this device can use a second gradient that the convolution's backward pass leaves.
    pub fn wants_second_gradient(&self, device: &Device) -> bool {
        matches!(self, Self::CrossIteration(norm) if norm.wants_second_gradient(device))
    }

    /// Scale and shift, `[C]` each, differentiable in gamma and beta, if that is all that this norm does to a map on this device.
    pub(crate) fn fixed_affine(&self, device: &Device) -> Option<[Tensor<1>; 2]> {
        let has_batch_statistics = match self {
            Self::Batch(norm) | Self::Sync(norm) => norm.has_batch_statistics(device),
            Self::CrossIteration(norm) => norm.has_batch_statistics(device),
            Self::Identity(_) | Self::Frozen(_) | Self::Group(_) => false,
        };
        if has_batch_statistics { None } else { self.inference_affine() }
    }

    /// Scale and shift, `[C]` each, if that is all that this norm does in inference.
    pub(crate) fn inference_affine(&self) -> Option<[Tensor<1>; 2]> {
        match self {
            Self::Frozen(norm) => Some(norm.inference_affine()),
            Self::Batch(norm) | Self::Sync(norm) => Some(norm.inference_affine()),
            Self::CrossIteration(norm) => Some(norm.inference_affine()),
            Self::Identity(_) | Self::Group(_) => None,
        }
    }

    /// What is added to the running variance or its root in inference, and to which; none for norms without running statistics.
    pub fn running_epsilon(&self) -> Option<(f64, EpsilonPlace)> {
        match self {
            Self::Frozen(norm) => Some((norm.epsilon, norm.epsilon_place)),
            Self::Batch(norm) | Self::Sync(norm) => Some((norm.epsilon, EpsilonPlace::InsideRoot)),
            Self::CrossIteration(norm) => Some((norm.config.epsilon, norm.config.epsilon_place)),
            Self::Identity(_) | Self::Group(_) => None,
        }
    }

    /// The norm, if its statistics are those of the image at hand: what does not fold into the convolution before it.
    pub fn as_group(&self) -> Option<&GroupNorm> {
        match self {
            Self::Group(norm) => Some(norm),
            _ => None,
        }
    }

    /// Whether the convolution before this norm has a bias of its own.
    pub(crate) fn wants_bias(&self) -> bool {
        matches!(self, Self::Identity(_))
    }
}
