//! What CBN's history takes: bytes a layer, beside what the released layer keeps for the same window.
//!
//! `cargo bench -p cbn --bench history`

#![expect(clippy::print_stdout, reason = "a bench prints its results")]

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Int, Tensor};
use cbn::{CbnConfig, ConvNormConfig, Norm, NormConfig};

/// Name, channels in and out, kernel.
const LAYERS: [(&str, [usize; 2], usize); 6] = [
    ("FPN output, box head, mask head", [256, 256], 3),
    ("FPN lateral of C5", [2048, 256], 1),
    ("ResNet stem", [3, 64], 7),
    ("ResNet-18 layer4", [512, 512], 3),
    ("ResNet-20 stage 3", [64, 64], 3),
    ("1x1", [64, 256], 1),
];

fn main() {
    let window = CbnConfig::paper().window;
    println!(
        "window of {window} iterations, {} of them past; the released layer keeps the weight and both gradients",
        window - 1
    );
    println!("{:<34} {:>14} {:>14} {:>7}", "layer", "bytes", "released", "ratio");
    for (name, channels, kernel) in LAYERS {
        let layer = ConvNormConfig::new(channels, [kernel; 2])
            .with_norm(NormConfig::CrossIteration(CbnConfig::paper()))
            .init(&Device::default());
        let Norm::CrossIteration(norm) = &layer.norm else { unreachable!("configured so") };
        let mut size = Bytes(0);
        norm.history.visit(&mut size);
        let released = (window - 1) * 3 * channels[1] * channels[0] * kernel * kernel * size_of::<f32>();
        println!("{name:<34} {:>14} {released:>14} {:>7.3}", size.0, size.0 as f64 / released as f64);
    }
}

/// The sum over a module's tensors.
struct Bytes(usize);

impl ModuleVisitor for Bytes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0 += param.val().shape().num_elements() * size_of::<f32>();
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0 += param.val().shape().num_elements() * size_of::<i64>();
    }
}
