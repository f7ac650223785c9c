//! How weights start (RELEASED recipes: mmdetection 0.6 `init_weights`; torchvision 0.26 agrees where it has the layer).

use burn::{
    module::{Initializer, Module, ModuleVisitor, Param},
    tensor::Tensor,
};

/// Convolutions followed by ReLU: normal with variance `2 / fan_out` (He et al. 2015), so that gradients keep their size
/// through depth.
pub(super) const fn kaiming_fan_out() -> Initializer {
    Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2, fan_out_only: true }
}

/// Layers without ReLU after them, and fully connected ones.
pub(super) const fn xavier_uniform() -> Initializer {
    Initializer::XavierUniform { gain: 1.0 }
}

/// Predictors start near zero: all classes alike, boxes where the anchors are.
pub(super) const fn normal(std: f64) -> Initializer {
    Initializer::Normal { mean: 0.0, std }
}

/// Draws every weight now, in the order of the fields.
///
/// Burn draws a weight when it is first used. The device's seed would then give other weights to a model that is first
/// saved than to one that is first run.
pub(super) fn materialize<M: Module>(module: M) -> M {
    struct Draw;
    impl ModuleVisitor for Draw {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let _ = param.val();
        }
    }
    module.visit(&mut Draw);
    module
}
