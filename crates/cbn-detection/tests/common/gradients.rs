//! Gradients under the names of another library.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use cbn_detection::model::Detector;
use cbn_detection::model::weights::{StateDict, WeightLayout, export_detector};
use cbn_detection::structures::Losses;

/// Puts each parameter's gradient in its place; zero for those that do not train.
struct Gradients(GradientsParams);

impl ModuleMapper for Gradients {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.0.remove::<D>(param.id);
        let (id, value, mapper) = param.consume();
        let gradient = gradient.unwrap_or_else(|| value.clone().inner().zeros_like());
        Param::from_mapped_value(id, Tensor::from_inner(gradient), mapper)
    }
}

/// The gradients of the sum of all losses, under the names of a layout.
pub fn gradients_named(detector: Detector, losses: &Losses, layout: WeightLayout) -> StateDict {
    let gradients = GradientsParams::from_grads(losses.total().backward(), &detector);
    export_detector(&detector.map(&mut Gradients(gradients)), layout)
}
