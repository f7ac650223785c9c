//! An exponential moving average of the weights.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::module_state::NamedTensors;
use super::per_parameter::PerParameter;

/// How slowly the average follows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmaConfig {
    /// Share of the average that stays from step to step, above 0 and below 1.
    pub decay: f64,
}

/// An average of every trained parameter over the steps, for evaluation and inference; training goes on with the weights themselves.
///
/// ```text
/// d(i) = min(decay, (1 + i) / (10 + i))     after step i, counted from 0: the first steps are soon forgotten
/// a    = d * a + (1 - d) * w                a = w before the first step's average
/// ```
///
/// TensorFlow 2 `tf.train.ExponentialMovingAverage` with `num_updates`. Running statistics and histories of norms are not averaged, as in
/// mmengine 0.10 `ExponentialMovingAverage` without `update_buffers`.
#[derive(Debug)]
pub(super) struct Ema {
    config: EmaConfig,
    averages: PerParameter,
}

impl Ema {
    pub(super) fn new(config: EmaConfig) -> Self {
        Self { config, averages: PerParameter::default() }
    }

    /// Takes the weights in after the step of this iteration, counted from 0.
    pub(super) fn update<M: Module>(&mut self, module: &M, iteration: usize) {
        let decay = self.config.decay.min((1.0 + iteration as f64) / (10.0 + iteration as f64));
        module.visit(&mut Update { averages: &mut self.averages, decay });
    }

    /// The module with averages in place of the weights.
    pub(super) fn apply<M: Module>(&self, module: M) -> M {
        module.map(&mut Apply { averages: &self.averages })
    }

    pub(super) fn state<M: Module>(&self, module: &M) -> NamedTensors {
        self.averages.state(module)
    }

    pub(super) fn restore<M: Module>(&mut self, module: &M, state: NamedTensors) -> Result<(), Vec<String>> {
        self.averages.restore(module, state)
    }
}

struct Update<'a> {
    averages: &'a mut PerParameter,
    decay: f64,
}

impl ModuleVisitor for Update<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let weight = param.val();
        if !weight.is_require_grad() {
            return;
        }
        let weight = weight.inner();
        let average = match self.averages.take::<D>(param.id) {
            Some(average) => average.mul_scalar(self.decay) + weight.mul_scalar(1.0 - self.decay),
            None => weight,
        };
        self.averages.set(param.id, average);
    }
}

struct Apply<'a> {
    averages: &'a PerParameter,
}

impl ModuleMapper for Apply<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(average) = self.averages.get::<D>(param.id) else { return param };
        let (id, weight, mapper) = param.consume();
        let requires_grad = weight.is_require_grad();
        Param::from_mapped_value(id, Tensor::from_inner(average).set_require_grad(requires_grad), mapper)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    struct Weights {
        trained: Param<Tensor<1>>,
        frozen: Param<Tensor<1>>,
    }

    fn weights(value: f32) -> Weights {
        let device = Device::flex().autodiff();
        Weights {
            trained: Param::from_data([value], &device),
            frozen: Param::from_data([value], &device).set_require_grad(false),
        }
    }

    fn value(param: &Param<Tensor<1>>) -> f32 {
        param.val().into_scalar()
    }

    #[test]
    fn the_average_follows_its_definition_and_leaves_frozen_weights_alone() {
        let mut ema = Ema::new(EmaConfig { decay: 0.15 });
        let mut module = weights(1.0);
        let mut expected = 1.0;
        ema.update(&module, 0);
        for (iteration, value) in [(1, 2.0_f32), (2, -3.0), (3, 0.5)] {
            module.trained = Param::initialized(
                module.trained.id,
                Tensor::from_data([value], &Device::flex().autodiff()).require_grad(),
            );
            ema.update(&module, iteration);
            // The warm-up's (1 + i) / (10 + i) is 0.18 and more: the configured decay is the smaller one from here on.
            expected = 0.15 * expected + 0.85 * f64::from(value);
        }
        let averaged = ema.apply(module.clone());
        assert!((f64::from(value(&averaged.trained)) - expected).abs() < 1e-6);
        assert_eq!((value(&module.trained), value(&averaged.frozen)), (0.5, 1.0));
        assert_eq!(ema.state(&module).into_keys().collect::<Vec<_>>(), ["trained"]);
    }
}
