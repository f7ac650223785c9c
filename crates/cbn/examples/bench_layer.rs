//! Our side of `cargo xtask bench-peers layer`.
//!
//! Requests: `NORM B C H W`, a training step (forward and backward) of a 3x3 convolution from C to C channels and its norm.

#[path = "../../../tools/bench/server.rs"]
mod server;

use std::collections::HashMap;
use std::time::Duration;

use burn::tensor::{Device, Distribution, Tensor};
use cbn::norm::cbn::{Compensation, HistoryGradient};
use cbn::{BatchNormConfig, CbnConfig, ConvNorm, ConvNormConfig, FeatureMap, GroupNormConfig, NormConfig};

/// Iterations that a layer sees before its first timed one: more than the window of CBN holds.
const SETTLING_STEPS: usize = 5;

fn main() -> std::io::Result<()> {
    let mut layers = HashMap::new();
    server::serve(move |request| {
        let layer = layers.entry(request.to_owned()).or_insert_with(|| Layer::of(request));
        (server::shorter(|| layer.step()), String::new())
    })
}

struct Layer {
    block: ConvNorm,
    x: Tensor<4>,
}

impl Layer {
    fn of(request: &str) -> Self {
        let [batch, channels, height, width] = server::numbers(request);
        let device = Device::flex().autodiff();
        let block = ConvNormConfig::new([channels; 2], [3, 3]).with_padding([1, 1]).with_norm(norm(request));
        let x = Tensor::random([batch, height, width, channels], Distribution::Normal(0.0, 1.0), &device);
        let layer = Self { block: block.init(&device), x: x.require_grad() };
        for _ in 0..SETTLING_STEPS {
            layer.step();
        }
        layer
    }

    /// The upstream gradient is one everywhere.
    fn step(&self) -> Duration {
        let (elapsed, gradients) = server::timed(|| {
            let gradients = self.block.forward(&FeatureMap::from_nhwc(self.x.clone())).into_nhwc().backward();
            (self.x.grad(&gradients), self.block.weight.grad(&gradients))
        });
        assert!(gradients.0.is_some() && gradients.1.is_some(), "input and weight have gradients");
        elapsed
    }
}

fn norm(request: &str) -> NormConfig {
    let window = CbnConfig { window: 4, ..CbnConfig::paper() };
    let history_gradient = HistoryGradient::ThroughWeight;
    match request.split(' ').next() {
        Some("bn") => NormConfig::Batch(BatchNormConfig::default()),
        Some("gn") => NormConfig::Group(GroupNormConfig::new(32)),
        Some("cbn") => NormConfig::CrossIteration(window),
        Some("cbn-sampled") => NormConfig::CrossIteration(CbnConfig { derivative_sampling: 4, ..window }),
        Some("cbn-through-weight") => NormConfig::CrossIteration(CbnConfig { history_gradient, ..window }),
        Some("cbn-exact-1024") => {
            let compensation = Compensation::Exact { positions: 1024 };
            NormConfig::CrossIteration(CbnConfig { compensation, history_gradient, ..window })
        }
        _ => panic!("{request}: no such norm"),
    }
}
