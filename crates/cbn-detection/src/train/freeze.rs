//! Weights that stay as they are.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use thiserror::Error;

use super::module_state::Path;

/// Paths below which a module has no parameter.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("train.freeze names {}, below which there is no weight", .0.join(", "))]
pub struct UnknownModules(pub Vec<String>);

/// Stops the parameters below these module paths from being trained: `backbone.stem`, `rpn`.
///
/// Running statistics of norms go on.
///
/// # Errors
///
/// The paths below which there is no parameter.
pub fn freeze<M: Module>(module: M, paths: &[String]) -> Result<M, UnknownModules> {
    let mut freezer = Freezer { path: Path::default(), paths, is_met: vec![false; paths.len()] };
    let module = module.map(&mut freezer);
    let unmet: Vec<String> =
        paths.iter().zip(freezer.is_met).filter(|(_, is_met)| !is_met).map(|(path, _)| path.clone()).collect();
    if unmet.is_empty() { Ok(module) } else { Err(UnknownModules(unmet)) }
}

struct Freezer<'a> {
    path: Path,
    paths: &'a [String],
    is_met: Vec<bool>,
}

impl ModuleMapper for Freezer<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let is_below =
            |path: &String| name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let Some(place) = self.paths.iter().position(is_below) else { return param };
        self.is_met[place] = true;
        // Several paths may cover the same parameter.
        for (path, is_met) in self.paths.iter().zip(&mut self.is_met) {
            *is_met |= is_below(path);
        }
        param.set_require_grad(false)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    struct Layer {
        weight: Param<Tensor<1>>,
    }

    #[derive(Module, Debug)]
    struct Network {
        head: Layer,
        header: Layer,
        layers: Vec<Layer>,
    }

    fn network() -> Network {
        let layer = || Layer { weight: Param::from_data([1.0], &Device::flex().autodiff()) };
        Network { head: layer(), header: layer(), layers: vec![layer(), layer()] }
    }

    #[test]
    fn what_lies_below_a_path_is_frozen_and_nothing_else() {
        let frozen = freeze(network(), &["head".into(), "layers.1".into(), "layers.1.weight".into()]).unwrap();
        let trains = |layer: &Layer| layer.weight.is_require_grad();
        assert!(!trains(&frozen.head) && trains(&frozen.header));
        assert!(trains(&frozen.layers[0]) && !trains(&frozen.layers[1]));
    }

    #[test]
    fn paths_without_a_weight_are_named() {
        let error = freeze(network(), &["head".into(), "hea".into(), "neck".into()]).unwrap_err();
        assert_eq!(error, UnknownModules(vec!["hea".into(), "neck".into()]));
    }
}
