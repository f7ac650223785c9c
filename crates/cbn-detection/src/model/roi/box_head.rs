use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use cbn::{Activation, ConvNorm, ConvNormConfig, FeatureMap, Linear, LinearConfig};

use crate::model::{
    config::{BoxBranchConfig, BoxHeadKind},
    init,
};

/// From pooled features to class logits and box deltas.
///
/// Convolutions with norm and ReLU, fully connected layers with ReLU, then two linear predictors side by side.
#[derive(Module, Debug)]
pub struct BoxHead {
    /// 3x3 convolutions; none in the two-layer head.
    pub convs: Vec<ConvNorm>,
    /// The first one reads the features of a roi in the order rows, columns, channels.
    pub fcs: Vec<Linear>,
    /// K + 1 logits, background first.
    pub class_logits: Linear,
    /// K + 1 times four deltas, those of the background unused.
    pub deltas: Linear,
}

/// What the box head says about N rois.
#[derive(Clone, Debug)]
pub struct BoxHeadOutput {
    /// `[N, K + 1]`, background first.
    pub class_logits: Tensor<2>,
    /// `[N, 4 (K + 1)]`, class by class.
    pub deltas: Tensor<2>,
}

impl BoxBranchConfig {
    /// A head on pooled features of `channels` channels, with random weights.
    pub fn init_head(&self, channels: usize, num_classes: usize, device: &Device) -> BoxHead {
        let (num_convs, num_fcs) = match self.head {
            BoxHeadKind::TwoFc => (0, 2),
            BoxHeadKind::FourConvOneFc => (4, 1),
        };
        let conv = || {
            ConvNormConfig::new([channels, channels], [3, 3])
                .with_padding([1, 1])
                .with_norm(self.norm.clone())
                .with_activation(Activation::Relu)
                .with_initializer(init::kaiming_fan_out())
                .init(device)
        };
        let fc = |index: usize| {
            let d_input = if index == 0 { channels * self.pool.side.pow(2) } else { self.fc_dim };
            LinearConfig::new([d_input, self.fc_dim], init::xavier_uniform()).init(device)
        };
        let num_logits = num_classes + 1;
        BoxHead {
            convs: (0..num_convs).map(|_| conv()).collect(),
            fcs: (0..num_fcs).map(fc).collect(),
            class_logits: LinearConfig::new([self.fc_dim, num_logits], init::normal(0.01)).init(device),
            deltas: LinearConfig::new([self.fc_dim, num_logits * 4], init::normal(0.001)).init(device),
        }
    }
}

impl BoxHead {
    /// # Shapes
    ///
    /// - `pooled`: `[N, side, side, C]`
    pub fn forward(&self, pooled: FeatureMap) -> BoxHeadOutput {
        let convolved = self.convs.iter().fold(pooled, |x, conv| conv.forward(&x));
        let flat: Tensor<2> = convolved.into_nhwc().flatten(1, 3);
        let x = self.fcs.iter().fold(flat, |x, fc| fc.forward_relu(x));
        BoxHeadOutput { class_logits: self.class_logits.forward(x.clone()), deltas: self.deltas.forward(x) }
    }
}
