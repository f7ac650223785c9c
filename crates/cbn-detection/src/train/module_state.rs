//! A module's tensors by their path, out and back in.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor, TensorData};

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

/// How a set of tensors differs from what a module holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateMismatch {
    /// Names that only the module has.
    pub missing: Vec<String>,
    /// Names that the module does not have.
    pub unexpected: Vec<String>,
    /// Name, the module's shape, the shape found.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl StateMismatch {
    fn between(module: &BTreeMap<&str, Vec<usize>>, found: &BTreeMap<&str, Vec<usize>>) -> Self {
        let absent_from = |other: &BTreeMap<&str, Vec<usize>>, name: &&&str| !other.contains_key(**name);
        Self {
            missing: module.keys().filter(|name| absent_from(found, name)).map(ToString::to_string).collect(),
            unexpected: found.keys().filter(|name| absent_from(module, name)).map(ToString::to_string).collect(),
            shapes: module
                .iter()
                .filter_map(|(name, shape)| {
                    let other = found.get(name)?;
                    (other != shape).then(|| ((*name).to_owned(), shape.clone(), other.clone()))
                })
                .collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.shapes.is_empty()
    }
}

impl std::fmt::Display for StateMismatch {
    /// Each kind of difference with its number and its first three names.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shapes: Vec<String> = self
            .shapes
            .iter()
            .map(|(name, expected, found)| format!("{name} {found:?} instead of {expected:?}"))
            .collect();
        let kinds = [("missing", &self.missing), ("not in the model", &self.unexpected), ("of another shape", &shapes)];
        let mut separator = "";
        for (kind, names) in kinds.into_iter().filter(|(_, names)| !names.is_empty()) {
            let first = &names[..names.len().min(3)];
            let ellipsis = if names.len() > first.len() { ", ..." } else { "" };
            write!(f, "{separator}{} {kind} ({}{ellipsis})", names.len(), first.join(", "))?;
            separator = "; ";
        }
        Ok(())
    }
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
