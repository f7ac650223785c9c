//! The TOML form of norms: a name, or a table with the norm's numbers.

use cbn::norm::cbn::{HistoryGradient, HistoryStorage, StatisticsScope, WindowSpan};
use cbn::{BatchNormConfig, CbnConfig, FrozenNormConfig, GroupNormConfig, NormConfig};
use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::schema::Length;

/// The norm of each part of the detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormSection {
    /// Of the residual network's convolutions.
    pub backbone: NormSpec,
    /// Of the pyramid's lateral and output convolutions.
    pub neck: NormSpec,
    /// Of the box head's convolutions, if its kind has any.
    pub box_head: NormSpec,
    /// Of the mask head's convolutions.
    #[serde(default)]
    pub mask_head: Option<NormSpec>,
}

/// A norm: `"bn"`, or with its numbers `{ kind = "gn", groups = 32 }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NormSpec {
    /// No norm: the convolutions have a bias.
    None,
    /// Batch norm with fixed statistics, whose scale and shift train.
    Frozen {
        /// Added to the variance.
        epsilon: f64,
    },
    /// Batch norm.
    Bn,
    /// Batch norm over all processes.
    SyncBn,
    /// Group norm.
    Gn {
        /// Channels are split into so many groups.
        groups: usize,
    },
    /// Cross-Iteration Batch Normalization.
    Cbn(CbnSpec),
}

/// The numbers of Cross-Iteration Batch Normalization.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CbnSpec {
    /// Iterations whose statistics count, the current one included.
    pub window: usize,
    /// Whether the window has a second limit, in images (in regions, in a head).
    #[serde(default)]
    pub span: WindowSpan,
    /// How long plain batch statistics are used at the start of training.
    pub burn_in: Length,
    /// What decides the rest.
    #[serde(default)]
    pub preset: CbnPreset,
    /// Whether the weight's gradient knows of the past moments. Default: none, as in both presets.
    #[serde(default)]
    pub history_gradient: HistoryGradient,
    /// The second moment's gradient is estimated from every n-th output position.
    #[serde(default = "every_position")]
    pub derivative_sampling: usize,
    /// Whether checkpoints hold the past iterations.
    #[serde(default)]
    pub history: HistoryStorage,
    /// Whose statistics they are, where several processes train together.
    #[serde(default)]
    pub scope: StatisticsScope,
}

fn every_position() -> usize {
    1
}

/// A preset of [`CbnConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CbnPreset {
    /// [`CbnConfig::paper`].
    #[default]
    Paper,
    /// [`CbnConfig::published`].
    Published,
}

impl CbnSpec {
    fn to_config(self, iterations_per_epoch: usize) -> CbnConfig {
        let preset = match self.preset {
            CbnPreset::Paper => CbnConfig::paper(),
            CbnPreset::Published => CbnConfig::published(),
        };
        CbnConfig {
            window: self.window,
            span: self.span,
            burn_in_iterations: self.burn_in.iterations(iterations_per_epoch),
            history_gradient: self.history_gradient,
            derivative_sampling: self.derivative_sampling,
            history: self.history,
            scope: self.scope,
            ..preset
        }
    }
}

impl NormSpec {
    /// The layer's configuration, once an epoch's length is known.
    pub(super) fn to_config(self, iterations_per_epoch: usize) -> NormConfig {
        match self {
            Self::None => NormConfig::Identity,
            Self::Frozen { epsilon } => NormConfig::Frozen(FrozenNormConfig { epsilon, ..FrozenNormConfig::default() }),
            Self::Bn => NormConfig::Batch(BatchNormConfig::default()),
            Self::SyncBn => NormConfig::Sync(BatchNormConfig::default()),
            Self::Gn { groups } => NormConfig::Group(GroupNormConfig::new(groups)),
            Self::Cbn(cbn) => NormConfig::CrossIteration(cbn.to_config(iterations_per_epoch)),
        }
    }

    /// Says why no norm of so many channels can be made of this, if so.
    pub(super) fn fault(self, channels: usize) -> Option<String> {
        match self {
            Self::Gn { groups } if groups == 0 || !channels.is_multiple_of(groups) => {
                Some(format!("{groups} groups do not divide {channels} channels"))
            }
            Self::Frozen { epsilon } if !(epsilon.is_finite() && epsilon >= 0.0) => {
                Some(format!("epsilon is {epsilon}, it must be 0 or more"))
            }
            Self::Cbn(CbnSpec { window: 0, .. }) => {
                Some("a window counts the current iteration, so it is at least 1".to_owned())
            }
            Self::Cbn(CbnSpec { span: WindowSpan::Samples { at_most: 0 }, .. }) => {
                Some("span holds the current iteration, so at_most is at least 1".to_owned())
            }
            Self::Cbn(CbnSpec { derivative_sampling: 0, .. }) => {
                Some("derivative_sampling takes every n-th position, so it is at least 1".to_owned())
            }
            _ => None,
        }
    }
}

fn usual_epsilon() -> f64 {
    FrozenNormConfig::default().epsilon
}

/// The same, as serde derives it: tables only.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum NormTable {
    None {},
    Frozen {
        #[serde(default = "usual_epsilon")]
        epsilon: f64,
    },
    Bn {},
    SyncBn {},
    Gn {
        groups: usize,
    },
    Cbn(CbnSpec),
}

impl From<NormTable> for NormSpec {
    fn from(table: NormTable) -> Self {
        match table {
            NormTable::None {} => Self::None,
            NormTable::Frozen { epsilon } => Self::Frozen { epsilon },
            NormTable::Bn {} => Self::Bn,
            NormTable::SyncBn {} => Self::SyncBn,
            NormTable::Gn { groups } => Self::Gn { groups },
            NormTable::Cbn(cbn) => Self::Cbn(cbn),
        }
    }
}

impl<'de> Deserialize<'de> for NormSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NormVisitor)
    }
}

struct NormVisitor;

impl<'de> Visitor<'de> for NormVisitor {
    type Value = NormSpec;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "a norm: \"none\", \"frozen\", \"bn\", \"sync_bn\", { kind = \"gn\", .. } or { kind = \"cbn\", .. }",
        )
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<NormSpec, E> {
        let table = MapDeserializer::new(std::iter::once(("kind", name)));
        NormTable::deserialize(table).map(NormSpec::from)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NormSpec, A::Error> {
        NormTable::deserialize(MapAccessDeserializer::new(map)).map(NormSpec::from)
    }
}
