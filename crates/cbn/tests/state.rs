//! History and counters are state of the module: cloned, recorded, loaded and moved with it.

mod common;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Int, Tensor};
use cbn::norm::cbn::{HistoryStorage, WindowSpan};
use cbn::{BatchNormConfig, CbnConfig, ConvNorm, FrozenNormConfig, NormConfig};
use common::{block, cbn, cbn_of, floats, random, training_device, with_weight_of};

/// After three training iterations under slightly other weights.
fn trained(config: CbnConfig, device: &Device) -> ConvNorm {
    let mut layer = block(cbn(config), device);
    for _ in 0..3 {
        layer.forward_nchw(random([2, 4, 6, 6], device));
        let weight = layer.weight.val().inner() * 1.01;
        layer.weight = layer.weight.map(|_| Tensor::from_inner(weight).require_grad());
    }
    layer
}

/// Everything that one more training step computes.
fn next_step(layer: &ConvNorm, x: &Tensor<4>) -> Vec<Vec<f32>> {
    let y = layer.forward_nchw(x.clone());
    let grads = y.clone().powi_scalar(3).sum().backward();
    let norm = cbn_of(layer);
    vec![
        floats(y),
        floats(layer.weight.val().grad(&grads).expect("it trains")),
        floats(norm.running_mean.value()),
        floats(norm.running_var.value()),
    ]
}

#[test]
fn the_step_after_a_load_is_the_same_to_the_last_bit() {
    the_step_after_a_load_is_the_same(&CbnConfig::paper());
}

/// Two past iterations of two images each fit beside the current one; a third would, if their sizes were lost.
#[test]
fn a_record_holds_what_a_span_of_samples_counts() {
    the_step_after_a_load_is_the_same(&CbnConfig { span: WindowSpan::Samples { at_most: 6 }, ..CbnConfig::paper() });
}

fn the_step_after_a_load_is_the_same(config: &CbnConfig) {
    let device = training_device();
    let layer = trained(config.clone(), &device);
    let bytes = layer.clone().into_record().into_bytes().expect("a record is bytes");
    let fresh = block(cbn(config.clone()), &device);
    let used = trained(config.clone(), &device);
    let x = random([2, 4, 6, 6], &device);
    let expected = next_step(&layer, &x);
    for (what, other) in [("fresh", fresh), ("used", used)] {
        let record = burn::store::ModuleRecord::from_bytes(bytes.clone()).expect("what was written");
        let loaded = other.load_record(record);
        assert_eq!(next_step(&loaded, &x), expected, "into a {what} layer");
        assert_eq!(cbn_of(&loaded).iteration.get(), 4);
    }
}

#[test]
fn a_clone_goes_its_own_way() {
    let device = training_device();
    let layer = trained(CbnConfig::paper(), &device);
    let clone = layer.clone();
    let x = random([2, 4, 6, 6], &device);
    let of_clone = next_step(&clone, &x);
    assert_eq!(cbn_of(&layer).iteration.get(), 3, "the clone's step is not the original's");
    assert_eq!(next_step(&layer, &x), of_clone);
}

/// The backward pass computes the second moment's gradient along with the weight's; without one it is made when it is read.
#[test]
fn a_history_is_the_same_with_and_without_a_backward_pass() {
    let device = training_device();
    let layer = trained(CbnConfig::paper(), &device);
    let [with, without] = [layer.clone(), layer];
    let (past, x) = (random([2, 4, 6, 6], &device), random([2, 4, 6, 6], &device));
    let _ = with.forward_nchw(past.clone()).square().sum().backward();
    without.forward_nchw(past);
    assert_eq!(next_step(&with, &x), next_step(&without, &x));
}

#[test]
fn moving_and_validating_keep_the_history() {
    let device = training_device();
    let layer = trained(CbnConfig::paper(), &device);
    let x = random([2, 4, 6, 6], &device);
    let expected = next_step(&layer.clone(), &x);
    assert_eq!(next_step(&layer.clone().fork(&device), &x), expected);
    assert_eq!(next_step(&layer.valid().train(), &x), expected);
}

#[test]
fn a_history_that_refills_is_not_recorded() {
    let device = training_device();
    let config = CbnConfig { history: HistoryStorage::Refill, ..CbnConfig::paper() };
    let saved = trained(CbnConfig::paper(), &device);
    let layer = trained(config.clone(), &device);
    let paths = |layer: &ConvNorm| Paths::of(layer).into_iter().filter(|path| path.contains("history")).count();
    assert_eq!([paths(&saved), paths(&layer)], [20, 0], "three entries of six tensors and two counters");

    let record = layer.clone().into_record();
    let loaded = block(cbn(config), &device).load_record(record);
    assert_eq!(cbn_of(&loaded).iteration.get(), 3, "the burn-in does not start again");
    // Alone in its window, an iteration is normalised as by batch norm; the second is not.
    let batch = with_weight_of(block(NormConfig::Batch(BatchNormConfig::default()), &device), &loaded);
    let is_batch_norm = [(); 2].map(|()| {
        let x = random([1, 4, 6, 6], &device);
        common::max_difference(loaded.forward_nchw(x.clone()), batch.forward_nchw(x)) < 1e-6
    });
    assert_eq!(is_batch_norm, [true, false]);
}

#[test]
fn inference_uses_running_statistics_and_changes_nothing() {
    let device = training_device();
    let valid = trained(CbnConfig::paper(), &device).valid();
    let x = random([1, 4, 6, 6], &Device::default());
    assert_eq!(floats(valid.forward_nchw(x.clone())), floats(valid.forward_nchw(x)));
    assert_eq!(cbn_of(&valid).iteration.get(), 3);
}

#[test]
fn a_layer_without_affine_has_no_gamma_and_no_beta() {
    let device = training_device();
    let config = CbnConfig { affine: false, ..CbnConfig::paper() };
    let (layer, affine) = (trained(config, &device), trained(CbnConfig::paper(), &device));
    let has = |layer: &ConvNorm| Paths::of(layer).iter().any(|path| path.ends_with("gamma") || path.ends_with("beta"));
    assert_eq!([has(&layer), has(&affine)], [false, true]);
    let y = layer.forward_nchw(random([2, 4, 6, 6], &device));
    assert!(floats(y).iter().all(|y| y.is_finite()));
}

#[test]
fn unfreezing_does_not_train_statistics() {
    for norm in [NormConfig::Frozen(FrozenNormConfig::default()), cbn(CbnConfig::paper())] {
        let layer = block(norm, &training_device()).freeze().unfreeze();
        let trained = Trained::of(&layer);
        assert_eq!(trained, ["weight", "gamma", "beta"]);
    }
}

/// The paths of a module's tensors.
#[derive(Default)]
struct Paths {
    here: Vec<String>,
    found: Vec<String>,
}

impl Paths {
    fn of(module: &impl Module) -> Vec<String> {
        let mut paths = Self::default();
        module.visit(&mut paths);
        paths.found
    }
}

impl ModuleVisitor for Paths {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.here.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.here.pop();
    }

    fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
        self.found.push(self.here.join("."));
    }

    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        self.found.push(self.here.join("."));
    }
}

/// The names of the tensors that require gradients.
#[derive(Default)]
struct Trained {
    name: String,
    found: Vec<String>,
}

impl Trained {
    fn of(module: &impl Module) -> Vec<String> {
        let mut trained = Self::default();
        module.visit(&mut trained);
        trained.found
    }
}

impl ModuleVisitor for Trained {
    fn enter_module(&mut self, name: &str, _container: &str) {
        name.clone_into(&mut self.name);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.val().is_require_grad() {
            self.found.push(self.name.clone());
        }
    }
}
