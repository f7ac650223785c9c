//! A tensor for each of some of a module's parameters.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::module_state::{NamedTensors, Path};

/// Tensors of their parameters' shapes, off the autodiff graph, keyed by parameter as gradients are.
#[derive(Debug, Default)]
pub(super) struct PerParameter(GradientsParams);

impl PerParameter {
    pub(super) fn get<const D: usize>(&self, id: ParamId) -> Option<Tensor<D>> {
        self.0.get(id)
    }

    pub(super) fn take<const D: usize>(&mut self, id: ParamId) -> Option<Tensor<D>> {
        self.0.remove(id)
    }

    pub(super) fn set<const D: usize>(&mut self, id: ParamId, tensor: Tensor<D>) {
        self.0.register(id, tensor);
    }

    /// Them all, under their parameters' paths.
    pub(super) fn state<M: Module>(&self, module: &M) -> NamedTensors {
        let mut collector = Collector { path: Path::default(), tensors: self, state: NamedTensors::new() };
        module.visit(&mut collector);
        collector.state
    }

    /// Takes tensors under their parameters' paths.
    ///
    /// # Errors
    ///
    /// The names that no parameter of the module has, or that it has with another shape.
    pub(super) fn restore<M: Module>(&mut self, module: &M, state: NamedTensors) -> Result<(), Vec<String>> {
        let mut restorer = Restorer { path: Path::default(), tensors: self, state };
        module.visit(&mut restorer);
        let foreign: Vec<String> = restorer.state.into_keys().collect();
        if foreign.is_empty() { Ok(()) } else { Err(foreign) }
    }
}

struct Collector<'a> {
    path: Path,
    tensors: &'a PerParameter,
    state: NamedTensors,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(tensor) = self.tensors.get::<D>(param.id) {
            self.state.insert(self.path.name(), tensor.into_data());
        }
    }
}

struct Restorer<'a> {
    path: Path,
    tensors: &'a mut PerParameter,
    /// What no parameter has taken yet.
    state: NamedTensors,
}

impl ModuleVisitor for Restorer<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.name();
        let weight = param.val();
        if let Some(data) = self.state.remove(&name).filter(|data| data.shape().to_vec() == weight.dims()) {
            let device = weight.device().without_autodiff();
            self.tensors.set(param.id, Tensor::<D>::from_data(data, &device));
        }
    }
}
