use burn::{module::Module, tensor::Device};
use cbn::{
    Activation, ConvNorm, ConvNormConfig, FeatureMap,
    ops::{max_pool2d, upsample_add},
};

use crate::{
    model::{config::FpnConfig, init},
    structures::Pyramid,
};

/// Image pixels per cell of P2 to P6.
const STRIDES: [usize; 5] = [4, 8, 16, 32, 64];

/// Feature pyramid ([Lin et al. 2016](https://arxiv.org/abs/1612.03144)).
///
/// `M5 = lateral(C5)`, `M_l = lateral(C_l) + upsample(M_{l+1})`, `P_l = output(M_l)`, and P6 is every second cell of P5.
/// Laterals are 1x1, outputs 3x3, each with the configured norm and without ReLU.
#[derive(Module, Debug)]
pub struct Fpn {
    /// One per backbone level, finest first.
    pub laterals: Vec<ConvNorm>,
    /// One per backbone level, finest first.
    pub outputs: Vec<ConvNorm>,
}

impl FpnConfig {
    /// A pyramid over maps of these channels, with random weights.
    pub fn init(&self, in_channels: &[usize], device: &Device) -> Fpn {
        let conv = |in_channels: usize, side: usize| {
            ConvNormConfig::new([in_channels, self.channels], [side, side])
                .with_padding([side / 2, side / 2])
                .with_norm(self.norm.clone())
                .with_activation(Activation::None)
                .with_initializer(init::xavier_uniform())
                .init(device)
        };
        Fpn {
            laterals: in_channels.iter().map(|&channels| conv(channels, 1)).collect(),
            outputs: in_channels.iter().map(|_| conv(self.channels, 3)).collect(),
        }
    }
}

impl Fpn {
    /// P2 to P6.
    ///
    /// # Shapes
    ///
    /// - `maps`: C2 to C5
    /// - output: the sizes of C2 to C5 and half of C5, rounded up; all of the pyramid's channels
    pub fn forward(&self, maps: &[FeatureMap]) -> Pyramid {
        let mut levels = Vec::with_capacity(STRIDES.len());
        let mut coarser: Option<FeatureMap> = None;
        for ((map, lateral), output) in maps.iter().zip(&self.laterals).zip(&self.outputs).rev() {
            let fine = lateral.forward(map);
            let merged = match &coarser {
                Some(coarse) => upsample_add(coarse, fine),
                None => fine,
            };
            levels.push(output.forward(&merged));
            coarser = Some(merged);
        }
        levels.reverse();
        let coarsest = levels.last().expect("the backbone has levels");
        levels.push(max_pool2d(coarsest, 1, 2, 0));
        Pyramid { levels, strides: STRIDES.to_vec() }
    }
}
