//! From Burn's convolution and batch norm to a [`ConvNorm`].

use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, PaddingConfig2d};
use thiserror::Error;

use crate::norm::TrainedBatchNorm;
use crate::ops::PackedWeightCache;
use crate::{Activation, ConvGeometry, ConvNorm, FrozenNormConfig, NormConfig};

/// Why a convolution and a batch norm do not convert.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConvertError {
    /// The two layers do not follow each other.
    #[error(
        "the convolution makes {conv} channels, the batch norm has {norm}: pass the batch norm that follows this convolution"
    )]
    ChannelsDiffer {
        /// Output channels of the convolution.
        conv: usize,
        /// Channels of the batch norm.
        norm: usize,
    },
    /// Opposite sides are padded differently.
    #[error(
        "padding {top}, {left}, {bottom}, {right} (top, left, bottom, right) differs between opposite sides, which `ConvNorm` \
         pads alike: pad the input yourself and set the convolution's padding to `PaddingConfig2d::Valid`"
    )]
    AsymmetricPadding {
        /// Rows above.
        top: usize,
        /// Columns on the left.
        left: usize,
        /// Rows below.
        bottom: usize,
        /// Columns on the right.
        right: usize,
    },
    /// How much is padded follows from the input's size, or differs between opposite sides.
    #[error(
        "`PaddingConfig2d::Same` with kernel {kernel:?} and stride {stride:?} pads by the size of the input or differs between \
         opposite sides: set the convolution's padding to the `PaddingConfig2d::Explicit` that your inputs need"
    )]
    PaddingDependsOnInput {
        /// Rows and columns of the kernel.
        kernel: [usize; 2],
        /// Step between output positions.
        stride: [usize; 2],
    },
}

impl ConvNorm {
    /// The block that does what `conv` and `norm` do, with the norm that `config` describes and no activation.
    ///
    /// Weight, stride, padding, dilation and groups are the convolution's; epsilon and momentum are the config's. Of the batch
    /// norm's state, every norm takes what it has:
    ///
    /// | norm | takes |
    /// | --- | --- |
    /// | batch, sync, cross-iteration | gamma, beta, running mean and variance, and whether the layer is frozen |
    /// | frozen | gamma, beta, running mean and variance |
    /// | group | gamma and beta; it computes something else, so train it further |
    /// | identity | all, folded into weight and bias by [`fuse`](Self::fuse) |
    ///
    /// With all but the group norm, inference gives the output of the two layers, if epsilon is the batch norm's and inside the root. Parameters keep
    /// their ids.
    ///
    /// **A bias of the convolution** goes into the running mean, `mean - bias`, which is exact in inference. A block that trains
    /// with the statistics of its batches needs no bias either: it shifts a channel and its mean alike, so that neither the
    /// output nor any other gradient depends on it. Two blocks do train differently: frozen statistics, where bias and
    /// beta would have shared one gradient, and group norm, where a bias shifts one channel of a group against the others; there it is dropped.
    ///
    /// **The running variance** of Burn's batch norm follows the biased variance of each batch, as ours follows the unbiased one
    /// (PyTorch's definition). The values are taken as they are; with batches of n values per channel they are `(n - 1) / n` of
    /// what ours would have tracked, and further training moves them there. Both add epsilon inside the root.
    ///
    /// # Errors
    ///
    /// See [`ConvertError`].
    ///
    /// # Panics
    ///
    /// Where [`NormConfig::init`] does.
    pub fn from_conv_batch_norm(conv: &Conv2d, norm: &BatchNorm, config: &NormConfig) -> Result<Self, ConvertError> {
        let weight_shape = conv.weight.dims();
        let [channels] = norm.gamma.dims();
        if weight_shape[0] != channels {
            return Err(ConvertError::ChannelsDiffer { conv: weight_shape[0], norm: channels });
        }
        let geometry = ConvGeometry {
            stride: conv.stride,
            padding: symmetric_padding(conv)?,
            dilation: conv.dilation,
            groups: conv.groups,
        };
        let device = conv.weight.device();
        let mut block = Self {
            weight: conv.weight.clone(),
            bias: None,
            norm: config.init(weight_shape, conv.groups, &device),
            geometry,
            activation: Activation::None,
            packed: PackedWeightCache::default(),
        };
        if block.norm.wants_bias() {
            let frozen = FrozenNormConfig { epsilon: norm.epsilon, ..FrozenNormConfig::default() };
            return Self::from_conv_batch_norm(conv, norm, &NormConfig::Frozen(frozen)).map(Self::fuse);
        }
        let mean = norm.running_mean.value_sync();
        let trained = TrainedBatchNorm {
            gamma: norm.gamma.clone(),
            beta: norm.beta.clone(),
            training: norm.training.clone(),
            running_mean: match &conv.bias {
                Some(bias) => mean - bias.val().detach(),
                None => mean,
            },
            running_var: norm.running_var.value_sync(),
        };
        block.norm.take_over(trained);
        Ok(block)
    }
}

/// Rows and columns of zeros on each side, if opposite sides have the same for every input.
fn symmetric_padding(conv: &Conv2d) -> Result<[usize; 2], ConvertError> {
    match conv.padding {
        PaddingConfig2d::Valid => Ok([0, 0]),
        PaddingConfig2d::Explicit(top, left, bottom, right) if top == bottom && left == right => Ok([top, left]),
        PaddingConfig2d::Explicit(top, left, bottom, right) => {
            Err(ConvertError::AsymmetricPadding { top, left, bottom, right })
        }
        PaddingConfig2d::Same => {
            let (kernel, stride) = (conv.kernel_size, conv.stride);
            // Burn 0.22.1 pads `kernel - 1` in all at stride 1, whatever the dilation.
            let is_fixed = |axis: usize| kernel[axis] == 1 || (stride[axis] == 1 && kernel[axis] % 2 == 1);
            if !(is_fixed(0) && is_fixed(1)) {
                return Err(ConvertError::PaddingDependsOnInput { kernel, stride });
            }
            Ok(kernel.map(|kernel| kernel / 2))
        }
    }
}
