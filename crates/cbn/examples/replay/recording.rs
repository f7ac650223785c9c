//! A recorded training of the released layer, and the same training here.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use cbn::norm::cbn::{Compensation, WindowOpening};
use cbn::norm::{EpsilonPlace, Norm};
use cbn::{CbnConfig, ConvNorm, ConvNormConfig, FrozenNormConfig, NormConfig};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// What is compared, in the order of [`Errors`].
pub const COMPARED: [&str; 8] =
    ["output", "input_grad", "weight_grad", "gamma_grad", "beta_grad", "running_mean", "running_var", "eval"];

/// The largest relative error of each of [`COMPARED`] over all steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors(pub [f64; 8]);

impl Errors {
    /// The largest of all; not a number counts as infinite.
    pub fn largest(&self) -> f64 {
        self.0.into_iter().fold(0.0, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) })
    }
}

/// A recording in memory.
pub struct Recording {
    bytes: Vec<u8>,
    settings: Value,
}

impl Recording {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).context("cannot read the file")?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).context("not a safetensors file")?;
        let settings = metadata.metadata().as_ref().and_then(|entries| entries.get("settings"));
        let settings =
            settings.context("the metadata has no \"settings\"; is it a recording of the released layer?")?;
        let settings = serde_json::from_str(settings).context("\"settings\" is not JSON")?;
        Ok(Self { bytes, settings })
    }

    /// Does every step with the recorded weights and upstream gradients, then the evaluation.
    pub fn replay(&self) -> Result<Errors> {
        let device = Device::default().autodiff();
        let mut layer = self.layer(&device)?;
        let mut errors = Errors::default();
        for step in 0..self.count("steps").context("\"settings\" has no \"steps\"")? {
            layer = self.with_parameters(layer, &format!("step.{step}"), &device)?;
            self.step(&layer, step, &device, &mut errors).with_context(|| format!("step {step}"))?;
        }
        let evaluated = self.with_parameters(layer, "eval", &device)?.valid();
        let input = self.tensor::<4>("eval.input")?.on(&Device::default());
        errors.0[7] = self.error("eval.output", evaluated.forward_nchw(input))?;
        Ok(errors)
    }

    fn step(&self, layer: &ConvNorm, step: usize, device: &Device, errors: &mut Errors) -> Result<()> {
        let named = |name: &str| format!("step.{step}.{name}");
        let input = self.tensor::<4>(&named("input"))?.on(device).require_grad();
        let output = layer.forward_nchw(input.clone());
        let upstream = self.tensor::<4>(&named("output_grad"))?.on(device);
        let grads = (output.clone() * upstream).sum().backward();

        let (gamma, beta, running_mean, running_var) = affine_and_running(layer);
        let missing = "no gradient";
        let found = [
            self.error(&named("output"), output.inner())?,
            self.error(&named("input_grad"), input.grad(&grads).context(missing)?)?,
            self.error(&named("weight_grad"), layer.weight.val().grad(&grads).context(missing)?)?,
            self.error(&named("gamma_grad"), gamma.grad(&grads).context(missing)?)?,
            self.error(&named("beta_grad"), beta.grad(&grads).context(missing)?)?,
            self.error(&named("running_mean"), running_mean)?,
            self.error(&named("running_var"), running_var)?,
        ];
        for (largest, error) in errors.0.iter_mut().zip(found) {
            *largest = if error.is_nan() { error } else { largest.max(error) };
        }
        Ok(())
    }

    /// The layer with the recorded settings.
    fn layer(&self, device: &Device) -> Result<ConvNorm> {
        let [out_channels, group_in, kernel_height, kernel_width] = self.dims::<4>("init.weight")?;
        let groups = self.count("groups").unwrap_or(1);
        let config = ConvNormConfig::new([group_in * groups, out_channels], [kernel_height, kernel_width])
            .with_stride(self.pair("stride", 1)?)
            .with_padding(self.pair("padding", 0)?)
            .with_dilation(self.pair("dilation", 1)?)
            .with_groups(groups);
        Ok(config.with_norm(self.norm()).init(device))
    }

    fn norm(&self) -> NormConfig {
        let number = |key: &str, default: f64| self.settings[key].as_f64().unwrap_or(default);
        let is_set = |key: &str, default: bool| self.settings[key].as_bool().unwrap_or(default);
        let epsilon = number("eps", 1e-5);
        let epsilon_place = if is_set("out_p", false) { EpsilonPlace::InsideRoot } else { EpsilonPlace::OutsideRoot };
        if is_set("FROZEN", false) {
            return NormConfig::Frozen(FrozenNormConfig { epsilon, epsilon_place });
        }
        NormConfig::CrossIteration(CbnConfig {
            window: self.count("buffer_num").unwrap_or(0) + 1,
            burn_in_iterations: self.count("burnin").unwrap_or(0),
            opening: if is_set("two_stage", true) { WindowOpening::AtOnce } else { WindowOpening::Linear },
            compensation: Compensation::FirstOrder { rho: number("rho", 1.0) },
            epsilon,
            epsilon_place,
            momentum: number("momentum", 0.1),
            ..CbnConfig::published()
        })
    }

    fn with_parameters(&self, mut layer: ConvNorm, step: &str, device: &Device) -> Result<ConvNorm> {
        let weight = self.tensor::<4>(&format!("{step}.weight"))?.on(device);
        let gamma = self.tensor::<1>(&format!("{step}.gamma"))?.on(device);
        let beta = self.tensor::<1>(&format!("{step}.beta"))?.on(device);
        layer.weight = layer.weight.map(|_| weight.require_grad());
        match &mut layer.norm {
            Norm::CrossIteration(norm) => {
                norm.gamma = norm.gamma.take().map(|param| param.map(|_| gamma.require_grad()));
                norm.beta = norm.beta.take().map(|param| param.map(|_| beta.require_grad()));
            }
            Norm::Frozen(norm) => {
                norm.gamma = norm.gamma.clone().map(|_| gamma.require_grad());
                norm.beta = norm.beta.clone().map(|_| beta.require_grad());
            }
            _ => unreachable!("`norm` makes one of the two"),
        }
        Ok(layer)
    }

    fn count(&self, key: &str) -> Option<usize> {
        self.settings[key].as_u64().and_then(|count| usize::try_from(count).ok())
    }

    /// A number for both axes, or one for each.
    fn pair(&self, key: &str, default: usize) -> Result<[usize; 2]> {
        match &self.settings[key] {
            Value::Null => Ok([default; 2]),
            Value::Number(_) => Ok([self.count(key).with_context(|| format!("{key} is not a count"))?; 2]),
            value => {
                serde_json::from_value(value.clone()).with_context(|| format!("{key} is neither a number nor two"))
            }
        }
    }

    fn dims<const D: usize>(&self, name: &str) -> Result<[usize; D]> {
        let tensors = SafeTensors::deserialize(&self.bytes)?;
        let tensor = tensors.tensor(name).with_context(|| format!("no tensor {name}"))?;
        tensor.shape().try_into().ok().with_context(|| format!("{name} has shape {:?}", tensor.shape()))
    }

    fn tensor<const D: usize>(&self, name: &str) -> Result<Recorded<D>> {
        let shape = self.dims(name)?;
        let tensors = SafeTensors::deserialize(&self.bytes)?;
        let tensor = tensors.tensor(name)?;
        ensure!(tensor.dtype() == Dtype::F32, "{name} is {:?}, not f32", tensor.dtype());
        let values = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(Recorded { shape, values })
    }

    /// `|ours - recorded| / |recorded|`.
    fn error<const D: usize>(&self, name: &str, ours: Tensor<D>) -> Result<f64> {
        let recorded = self.tensor::<D>(name)?;
        ensure!(ours.dims() == recorded.shape, "{name} is {:?}, recorded {:?}", ours.dims(), recorded.shape);
        let ours: Vec<f32> = ours.into_data().try_to_vec().ok().context("the layer computes in f32")?;
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let distance = norm(&mut ours.iter().zip(&recorded.values).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        let size = norm(&mut recorded.values.iter().map(|x| f64::from(*x)));
        Ok(if distance == 0.0 { 0.0 } else { distance / size })
    }
}

/// A tensor of the recording.
struct Recorded<const D: usize> {
    shape: [usize; D],
    values: Vec<f32>,
}

impl<const D: usize> Recorded<D> {
    fn on(self, device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.values, self.shape), device)
    }
}

/// Gamma, beta, running mean and running variance.
fn affine_and_running(layer: &ConvNorm) -> (Tensor<1>, Tensor<1>, Tensor<1>, Tensor<1>) {
    let (gamma, beta, mean, var) = match &layer.norm {
        Norm::CrossIteration(norm) => {
            let affine = norm.gamma.as_ref().zip(norm.beta.as_ref()).expect("the recorded layers are affine");
            (affine.0.val(), affine.1.val(), &norm.running_mean, &norm.running_var)
        }
        Norm::Frozen(norm) => (norm.gamma.val(), norm.beta.val(), &norm.running_mean, &norm.running_var),
        _ => unreachable!("`norm` makes one of the two"),
    };
    (gamma, beta, mean.value().inner(), var.value().inner())
}
