//! The norm over all gradients, and clipping by it.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// L2 norm over all gradients of the module; 0 without any.
pub fn global_norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    let mut sum = SumOfSquares { gradients, sum: None };
    module.visit(&mut sum);
    sum.sum.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt())
}

/// Scales all gradients so that their global norm is at most `max_norm`.
///
/// ```text
/// g = g * min(1, max_norm / (norm + 1e-6))
/// ```
///
/// PyTorch 2.11 `torch.nn.utils.clip_grad_norm_`, its 1e-6 included.
pub fn clip<M: Module>(module: &M, gradients: GradientsParams, norm: f64, max_norm: f64) -> GradientsParams {
    let factor = max_norm / (norm + 1e-6);
    if factor >= 1.0 {
        return gradients;
    }
    let mut scale = Scale { gradients, factor };
    module.visit(&mut scale);
    scale.gradients
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
            let squares = gradient.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + squares,
                None => squares,
            });
        }
    }
}

struct Scale {
    gradients: GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient.mul_scalar(self.factor));
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

    fn values(module: &Pair, gradients: &GradientsParams) -> [Vec<f32>; 2] {
        let first = gradients.get::<1>(module.first.id).unwrap().into_data().try_to_vec().unwrap();
        let second = gradients.get::<2>(module.second.id).unwrap().into_data().try_to_vec().unwrap();
        [first, second]
    }

    #[test]
    fn the_norm_is_over_all_parameters() {
        let (module, gradients) = three_and_four();
        // Small integers: exact.
        assert_eq!(global_norm(&module, &gradients), 5.0);
        assert_eq!(global_norm(&module, &GradientsParams::new()), 0.0);
    }

    #[test]
    fn a_norm_below_the_limit_changes_nothing() {
        let (module, gradients) = three_and_four();
        let clipped = clip(&module, gradients, 5.0, 35.0);
        assert_eq!(values(&module, &clipped), [vec![3.0, 0.0], vec![0.0, 4.0]]);
    }

    #[test]
    fn a_norm_above_the_limit_becomes_the_limit() {
        let (module, gradients) = three_and_four();
        let clipped = clip(&module, gradients, 5.0, 1.0);
        let norm = global_norm(&module, &clipped);
        // 1e-6 in the denominator takes 2e-7 away, f32 rounding as much.
        assert!((norm - 1.0).abs() < 1e-6, "{norm}");
    }
}
