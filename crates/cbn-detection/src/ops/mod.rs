//! Box arithmetic on the host: coding, matching, sampling, suppression.

mod box_coder;
mod matcher;
mod nms;
mod sampler;

pub use box_coder::{BoxCoder, DeltaClamp};
pub use matcher::{BestCandidates, Match, Matcher};
pub use nms::{nms, nms_by_group};
pub use sampler::{BalancedSampler, Draw, Sample};
