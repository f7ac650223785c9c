//! A module's tensors by their path, out and back in.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor, TensorData};

use crate::model::weights::StateMismatch;

/// Tensors by name.
pub type NamedTensors = BTreeMap<String, TensorData>;

/// The names of the modules that a walk is inside of.
#[derive(Debug, Default)]
pub(super) struct Path(Vec<String>);

impl Path {
    pub(super) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(super) fn exit(&mut self) {
        self.0.pop();
    }

    pub(super) fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Every tensor of the module: parameters, running statistics, histories.
///
/// Names are module paths, as in `backbone.stem.conv.weight`.
pub fn collect<M: Module>(module: &M) -> NamedTensors {
    let mut collector = Collector::default();
    // A visitor sees running states without their last update; `valid` takes it in first.
    module.valid().visit(&mut collector);
    collector.tensors
}

/// Puts tensors into the module under their paths.
///
/// Parameters keep their ids and whether they train.
///
/// # Errors
///
/// What the module has and `tensors` has not, the reverse, and other shapes: then nothing was changed.
pub fn restore<M: Module>(module: M, tensors: NamedTensors) -> Result<M, StateMismatch> {
    let mismatch = StateMismatch::between(&shapes(&collect(&module)), &shapes(&tensors));
    if mismatch.is_empty() {
        let mut restorer = Restorer { path: Path::default(), tensors };
        Ok(module.map(&mut restorer))
    } else {
        Err(mismatch)
    }
}

fn shapes(tensors: &NamedTensors) -> BTreeMap<&str, Vec<usize>> {
    tensors.iter().map(|(name, data)| (name.as_str(), data.shape().to_vec())).collect()
}

#[derive(Default)]
struct Collector {
    path: Path,
    tensors: NamedTensors,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.tensors.insert(self.path.name(), param.val().into_data());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.tensors.insert(self.path.name(), param.val().into_data());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.tensors.insert(self.path.name(), param.val().into_data());
    }
}

struct Restorer {
    path: Path,
    tensors: NamedTensors,
}

impl Restorer {
    fn take(&mut self) -> TensorData {
        self.tensors.remove(&self.path.name()).expect("the names were compared before the walk")
    }
}

impl ModuleMapper for Restorer {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let data = self.take();
        let (id, old, mapper) = param.consume();
        let new = Tensor::from_data(data, &old.device()).set_require_grad(old.is_require_grad());
        Param::from_mapped_value(id, new, mapper)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let data = self.take();
        let (id, old, mapper) = param.consume();
        Param::from_mapped_value(id, Tensor::from_data(data, &old.device()), mapper)
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        let data = self.take();
        let (id, old, mapper) = param.consume();
        Param::from_mapped_value(id, Tensor::from_data(data, &old.device()), mapper)
    }
}
