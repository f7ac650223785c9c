use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, assert_shape},
};
use cbn::{
    Activation, Conv, ConvConfig, ConvGeometry, ConvNorm, ConvNormConfig, FeatureMap,
    ops::{BlockTail, PackedWeightCache, conv_block, row_dots},
};

use crate::model::{config::MaskBranchConfig, host, init};

/// From pooled features to one mask per class at twice the resolution ([He et al. 2017](https://arxiv.org/abs/1703.06870)).
#[derive(Module, Debug)]
pub struct MaskHead {
    /// 3x3 convolutions with norm and ReLU.
    pub convs: Vec<ConvNorm>,
    /// Doubles the resolution; ReLU follows.
    pub deconv: Deconv2x2,
    /// K + 1 logits per cell; that of the background, the first, is unused.
    pub logits: Conv,
}

impl MaskBranchConfig {
    /// A head on pooled features of `in_channels` channels, with random weights.
    pub fn init_head(&self, in_channels: usize, num_classes: usize, device: &Device) -> MaskHead {
        let conv = |index: usize| {
            let in_channels = if index == 0 { in_channels } else { self.channels };
            ConvNormConfig::new([in_channels, self.channels], [3, 3])
                .with_padding([1, 1])
                .with_norm(self.norm.clone())
                .with_activation(Activation::Relu)
                .with_initializer(init::kaiming_fan_out())
                .init(device)
        };
        let deconv_inputs = if self.num_convs == 0 { in_channels } else { self.channels };
        MaskHead {
            convs: (0..self.num_convs).map(conv).collect(),
            deconv: Deconv2x2::init([deconv_inputs, self.channels], device),
            logits: ConvConfig::new([self.channels, num_classes + 1], [1, 1])
                .with_initializer(init::kaiming_fan_out())
                .init(device),
        }
    }
}

impl MaskHead {
    /// # Shapes
    ///
    /// - `pooled`: `[N, side, side, C]`
    /// - output: `[N, 2 side, 2 side, K + 1]`
    pub fn forward(&self, pooled: FeatureMap) -> FeatureMap {
        FeatureMap::from_nhwc(spread(self.forward_folded(pooled)))
    }

    /// The same with the four cells that a cell becomes still side by side: what is to be thrown away need not be moved first.
    ///
    /// # Shapes
    ///
    /// - output: `[N, side, 4 side, K + 1]`
    pub(super) fn forward_folded(&self, pooled: FeatureMap) -> Tensor<4> {
        self.logits.forward(&self.folded_cells(pooled)).into_nhwc()
    }

    /// Of each roi the logits of one class only, `[N, 2 side, 2 side]`. Not differentiable in the weights of the logits.
    pub(super) fn forward_own(&self, pooled: FeatureMap, labels: &[usize]) -> Tensor<3> {
        let cells = self.folded_cells(pooled).into_nhwc();
        let [num_rois, height, width, channels] = cells.dims();
        let (weight, bias) = (self.logits.weight.val(), self.logits.bias.val());
        let logit_indices: Vec<usize> = labels.iter().map(|label| label + 1).collect();
        let own = host::indices(&logit_indices, &cells.device());
        let weight = weight.flatten::<2>(1, 3).select(0, own.clone());
        let dots = row_dots(weight, cells.reshape([num_rois * height * width, channels]));
        let logits = dots.reshape([num_rois, height, width, 1]) + bias.select(0, own).reshape([num_rois, 1, 1, 1]);
        spread(logits).squeeze_dim(3)
    }

    /// What the logits are of, `[N, side, 4 side, C]`.
    fn folded_cells(&self, pooled: FeatureMap) -> FeatureMap {
        self.deconv.forward_relu(&self.convs.iter().fold(pooled, |x, conv| conv.forward(&x)))
    }
}

/// Moves the four cells that a cell became to their places, `[N, H, 4 W, C]` to `[N, 2 H, 2 W, C]`.
pub(super) fn spread(folded: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels] = folded.dims();
    folded.reshape([batch * height, width / 4, 2, 2, channels]).permute([0, 2, 1, 3, 4]).reshape([
        batch,
        2 * height,
        width / 2,
        channels,
    ])
}

/// Transposed 2x2 convolution of stride 2.
///
/// Kernels do not overlap, so it is a 1x1 convolution that turns the channels of a cell into those of the four cells it becomes.
#[derive(Module, Debug)]
pub struct Deconv2x2 {
    /// `[C_in, C_out, 2, 2]`, PyTorch's order.
    pub weight: Param<Tensor<4>>,
    /// `[C_out]`.
    pub bias: Param<Tensor<1>>,
}

impl Deconv2x2 {
    fn init([in_channels, out_channels]: [usize; 2], device: &Device) -> Self {
        // PyTorch takes the second dimension of a weight for the inputs, here the outputs: its fan_out is C_in k k.
        let fan_out = in_channels * 4;
        let weight = init::kaiming_fan_out().init_with(
            [in_channels, out_channels, 2, 2],
            Some(out_channels * 4),
            Some(fan_out),
            device,
        );
        Self { weight, bias: burn::module::Initializer::Zeros.init([out_channels], device) }
    }

    /// `max(deconv(x), 0)`, the four cells that a cell becomes side by side: `[N, H, W, C_in]` to `[N, H, 4 W, C_out]`.
    fn forward_relu(&self, x: &FeatureMap) -> FeatureMap {
        let [batch, height, width, in_channels] = x.dims();
        let weight = self.weight.val();
        let [_, out_channels, _, _] = weight.dims();
        assert_shape!(weight, [in_channels, out_channels, 2, 2]);
        let weight = weight.permute([2, 3, 1, 0]).reshape([4 * out_channels, in_channels, 1, 1]);
        let bias = self.bias.val().reshape([1, out_channels]).repeat(&[4, 1]).reshape([4 * out_channels]);
        let tail =
            BlockTail { affine: [bias.ones_like().detach(), bias], residual: None, activation: Activation::Relu };
        let cells = conv_block(x, &weight, &ConvGeometry::default(), tail, &PackedWeightCache::default());
        FeatureMap::from_nhwc(cells.into_nhwc().reshape([batch, height, 4 * width, out_channels]))
    }
}
