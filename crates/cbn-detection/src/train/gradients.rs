//! The norm over all gradients, and what clips by it.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use cbn::ops::sum_of_squares;

/// L2 norm over all gradients of the module; 0 without any.
pub fn global_norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    let mut sum = SumOfSquares { gradients, sum: None };
    module.visit(&mut sum);
    sum.sum.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt())
}

/// What brings gradients of this global norm to at most `max_norm`.
///
/// ```text
/// g = g * min(1, max_norm / (norm + 1e-6))
/// ```
///
/// PyTorch 2.11 `torch.nn.utils.clip_grad_norm_`, its 1e-6 included.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// The sum of two sets of gradients of the module; what only one of them has stays as it is.
pub fn add<M: Module>(module: &M, first: GradientsParams, second: GradientsParams) -> GradientsParams {
    let mut sum = Add { first, second };
    module.visit(&mut sum);
    sum.first
}

struct Add {
    first: GradientsParams,
    second: GradientsParams,
}

impl ModuleVisitor for Add {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(second) = self.second.remove::<D>(param.id) else { return };
        let sum = match self.first.remove::<D>(param.id) {
            Some(first) => first + second,
            None => second,
        };
        self.first.register(param.id, sum);
    }
}

struct SumOfSquares<'a> {
    gradients: &'a GradientsParams,
    /// Stays on the device, so that the whole walk reads back one number.
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for SumOfSquares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let squares = sum_of_squares(gradient);
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + squares,
                None => squares,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    struct Pair {
        first: Param<Tensor<1>>,
        second: Param<Tensor<2>>,
    }

    /// Gradients (3, 0) and ((0, 4)): norm 5.
    fn three_and_four() -> (Pair, GradientsParams) {
        let device = Device::flex().autodiff();
        let module =
            Pair { first: Param::from_data([1.0, 1.0], &device), second: Param::from_data([[1.0, 1.0]], &device) };
        let loss = (module.first.val() * Tensor::from_data([3.0, 0.0], &device)).sum()
            + (module.second.val() * Tensor::from_data([[0.0, 4.0]], &device)).sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &module);
        (module, gradients)
    }

    #[test]
    fn the_norm_is_over_all_parameters() {
        let (module, gradients) = three_and_four();
        // Small integers: exact.
        assert_eq!(global_norm(&module, &gradients), 5.0);
        assert_eq!(global_norm(&module, &GradientsParams::new()), 0.0);
    }

    #[test]
    fn a_norm_above_the_limit_becomes_the_limit() {
        assert_eq!(clip_factor(5.0, 35.0), 1.0);
        // 1e-6 in the denominator takes 2e-7 away.
        assert!((5.0 * clip_factor(5.0, 1.0) - 1.0).abs() < 1e-6);
    }
}
