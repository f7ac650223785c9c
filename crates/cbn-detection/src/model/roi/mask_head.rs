use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, assert_shape},
};
use cbn::{Activation, Conv, ConvConfig, ConvNorm, ConvNormConfig, FeatureMap};

use crate::model::{config::MaskBranchConfig, init};

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
        let x = self.convs.iter().fold(pooled, |x, conv| conv.forward(&x));
        self.logits.forward(&self.deconv.forward(x).relu())
    }
}

/// Transposed 2x2 convolution of stride 2.
///
/// Kernels do not overlap, so it is one matrix product that turns the channels of a cell into those of the four cells it
/// becomes.
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

    fn forward(&self, x: FeatureMap) -> FeatureMap {
        let [batch, height, width, in_channels] = x.dims();
        let weight = self.weight.val();
        let [_, out_channels, _, _] = weight.dims();
        assert_shape!(weight, [in_channels, out_channels, 2, 2]);
        let weight = weight.permute([0, 2, 3, 1]).reshape([in_channels, 4 * out_channels]);
        let cells: Tensor<2> = x.into_nhwc().reshape([batch * height * width, in_channels]);
        let fine = cells
            .matmul(weight)
            .reshape([batch * height, width, 2, 2, out_channels])
            .permute([0, 2, 1, 3, 4])
            .reshape([batch, 2 * height, 2 * width, out_channels]);
        FeatureMap::from_nhwc(fine + self.bias.val().reshape([1, 1, 1, out_channels]))
    }
}
