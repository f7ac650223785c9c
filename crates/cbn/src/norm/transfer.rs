//! What a norm takes over from a trained batch norm.

use burn::module::{Flag, Param};
use burn::tensor::Tensor;

use super::{Buffer, Norm};

/// The state of a trained batch norm.
pub(crate) struct TrainedBatchNorm {
    /// Scale, `[C]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[C]`.
    pub beta: Param<Tensor<1>>,
    /// Off where the layer was frozen.
    pub training: Param<Flag>,
    /// Running mean, `[C]`.
    pub running_mean: Tensor<1>,
    /// Running variance, `[C]`.
    pub running_var: Tensor<1>,
}

impl Norm {
    /// Takes over as much of `trained` as this norm has a place for; a cross-iteration norm gets a scale and a shift if it had none.
    pub(crate) fn take_over(&mut self, trained: TrainedBatchNorm) {
        let TrainedBatchNorm { gamma, beta, training, running_mean, running_var } = trained;
        match self {
            Self::Identity(_) => {}
            Self::Group(norm) => {
                norm.gamma = gamma;
                norm.beta = beta;
            }
            Self::Frozen(norm) => {
                norm.gamma = gamma;
                norm.beta = beta;
                norm.running_mean = Buffer::new(running_mean);
                norm.running_var = Buffer::new(running_var);
            }
            Self::Batch(norm) | Self::Sync(norm) => {
                norm.gamma = gamma;
                norm.beta = beta;
                norm.training = training;
                norm.running_mean = Buffer::new(running_mean);
                norm.running_var = Buffer::new(running_var);
            }
            Self::CrossIteration(norm) => {
                norm.gamma = Some(gamma);
                norm.beta = Some(beta);
                norm.training = training;
                norm.running_mean = Buffer::new(running_mean);
                norm.running_var = Buffer::new(running_var);
            }
        }
    }
}
