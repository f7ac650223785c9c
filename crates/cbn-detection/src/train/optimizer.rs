//! Stochastic gradient descent as PyTorch defines it.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use cbn::ops::{SgdStep, sgd_step};
use serde::{Deserialize, Serialize};

use super::module_state::NamedTensors;
use super::per_parameter::PerParameter;

/// Momentum and weight decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgdConfig {
    /// Share of the velocity that stays from step to step.
    pub momentum: f64,
    /// L2 penalty on every trained parameter, norms and biases included.
    pub weight_decay: f64,
}

/// Stochastic gradient descent with momentum.
///
/// ```text
/// g = gradient + weight_decay * w
/// v = g                     at a parameter's first step, then
/// v = momentum * v + g
/// w = w - lr * v
/// ```
///
/// PyTorch 2.11 `torch.optim.SGD` without dampening and Nesterov momentum; on the CPU one pass, in place ([`sgd_step`]). Burn's
/// `Sgd` computes the same when its dampening (0.1 by default) is 0, but in several passes, and it keeps its velocities where a checkpoint
/// in another format cannot read them.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    velocities: PerParameter,
}

impl Sgd {
    /// No parameter has a velocity yet.
    pub fn new(config: SgdConfig) -> Self {
        Self { config, velocities: PerParameter::default() }
    }

    /// Moves every parameter that has a gradient, by `gradient_scale` times that gradient: 1, or what clips it.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        gradients: GradientsParams,
        learning_rate: f64,
        gradient_scale: f64,
    ) -> M {
        let step = SgdStep {
            learning_rate: learning_rate as f32,
            momentum: self.config.momentum as f32,
            weight_decay: self.config.weight_decay as f32,
            gradient_scale: gradient_scale as f32,
        };
        module.map(&mut StepMapper { step, velocities: &mut self.velocities, gradients })
    }

    /// The velocities, under their parameters' paths.
    pub fn state<M: Module>(&self, module: &M) -> NamedTensors {
        self.velocities.state(module)
    }

    /// Takes velocities under their parameters' paths.
    ///
    /// # Errors
    ///
    /// The names that no parameter of the module has, or that it has with another shape.
    pub fn restore<M: Module>(&mut self, module: &M, state: NamedTensors) -> Result<(), Vec<String>> {
        self.velocities.restore(module, state)
    }
}

struct StepMapper<'a> {
    step: SgdStep,
    velocities: &'a mut PerParameter,
    gradients: GradientsParams,
}

impl ModuleMapper for StepMapper<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, weight, mapper) = param.consume();
        let requires_grad = weight.is_require_grad();
        let [moved, velocity] = sgd_step(weight.inner(), gradient, self.velocities.take(id), self.step);
        self.velocities.set(id, velocity);
        Param::from_mapped_value(id, Tensor::from_inner(moved).set_require_grad(requires_grad), mapper)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[derive(Module, Debug)]
    struct Weights {
        trained: Param<Tensor<1>>,
        untouched: Param<Tensor<2>>,
    }

    fn weights() -> Weights {
        let device = Device::flex().autodiff();
        Weights {
            trained: Param::from_data([1.0, -2.0, 0.5], &device),
            untouched: Param::from_data([[3.0, 4.0]], &device),
        }
    }

    /// Loss = sum(w * direction), so that the gradient is `direction`.
    fn gradients(module: &Weights, direction: [f32; 3]) -> GradientsParams {
        let loss = (module.trained.val() * Tensor::from_data(direction, &module.trained.val().device())).sum();
        GradientsParams::from_grads(loss.backward(), module)
    }

    fn values(module: &Weights) -> Vec<f32> {
        module.trained.val().into_data().try_to_vec().unwrap()
    }

    const STEPS: [[f32; 3]; 3] = [[0.5, 1.0, -1.0], [0.25, -1.0, 0.0], [-0.5, 0.5, 2.0]];

    /// The definition, in f64.
    fn reference(num_steps: usize) -> Vec<f64> {
        let (lr, momentum, decay) = (0.1, 0.9, 0.01);
        let mut weights = [1.0, -2.0, 0.5];
        let mut velocities = [None; 3];
        for direction in &STEPS[..num_steps] {
            for index in 0..3 {
                let gradient = f64::from(direction[index]) + decay * weights[index];
                let velocity = velocities[index].map_or(gradient, |velocity: f64| momentum * velocity + gradient);
                velocities[index] = Some(velocity);
                weights[index] -= lr * velocity;
            }
        }
        weights.to_vec()
    }

    #[test]
    fn steps_follow_the_definition() {
        let mut sgd = Sgd::new(SgdConfig { momentum: 0.9, weight_decay: 0.01 });
        let mut module = weights();
        for (index, direction) in STEPS.into_iter().enumerate() {
            let gradients = gradients(&module, direction);
            module = sgd.step(module, gradients, 0.1, 1.0);
            for (found, expected) in values(&module).into_iter().zip(reference(index + 1)) {
                // A few f32 roundings of numbers below 4.
                assert!((f64::from(found) - expected).abs() < 1e-6, "step {index}: {found}, expected {expected}");
            }
        }
        let untouched: Vec<f32> = module.untouched.val().into_data().try_to_vec().unwrap();
        assert_eq!(untouched, [3.0, 4.0]);
    }

    #[test]
    fn a_restored_velocity_continues_bit_for_bit() {
        let config = SgdConfig { momentum: 0.9, weight_decay: 0.01 };
        let mut sgd = Sgd::new(config.clone());
        let mut module = weights();
        for direction in &STEPS[..2] {
            let gradients = gradients(&module, *direction);
            module = sgd.step(module, gradients, 0.1, 1.0);
        }
        let state = sgd.state(&module);
        assert_eq!(state.keys().collect::<Vec<_>>(), ["trained"]);
        let mut resumed = Sgd::new(config);
        resumed.restore(&module, state).unwrap();

        let step = gradients(&module, STEPS[2]);
        let straight = sgd.step(module.clone(), step, 0.1, 1.0);
        let step = gradients(&module, STEPS[2]);
        let resumed = resumed.step(module, step, 0.1, 1.0);
        assert_eq!(values(&straight), values(&resumed));
    }

    #[test]
    fn foreign_velocities_are_named() {
        let mut sgd = Sgd::new(SgdConfig { momentum: 0.9, weight_decay: 0.0 });
        let data = || TensorData::from([1.0f32, 2.0]);
        let state = NamedTensors::from([("other".to_owned(), data()), ("zzz".to_owned(), data())]);
        assert_eq!(sgd.restore(&weights(), state).unwrap_err(), ["other", "zzz"]);
    }
}
