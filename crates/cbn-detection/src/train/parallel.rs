//! What a step exchanges with the other processes of a run.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use cbn::process_group::Peers;

use super::TrainError;

/// Values that are added up at once: 16 MiB, so that a copy of the gradients is never held whole.
const BUCKET_VALUES: usize = 4 << 20;

/// Adds up the gradients of all processes, in the order of ranks, so that all have the same bits. A parameter that has a gradient in one
/// process has one in all; it counts as 0 where there is none.
pub(super) fn sum_gradients<M: Module>(module: &M, gradients: GradientsParams, peers: &Peers) -> GradientsParams {
    if peers.is_alone() {
        return gradients;
    }
    let mut is_there = Presence { gradients: &gradients, of_params: Vec::new() };
    module.visit(&mut is_there);
    let mut of_params = is_there.of_params;
    peers.sum_f32(&mut of_params);

    let mut reader = Reader { gradients: &gradients, of_params: of_params.iter(), values: Vec::new() };
    module.visit(&mut reader);
    let mut values = reader.values;
    for bucket in values.chunks_mut(BUCKET_VALUES) {
        peers.sum_f32(bucket);
    }
    let mut writer = Writer { of_params: of_params.iter(), values: &values, sums: GradientsParams::new() };
    module.visit(&mut writer);
    writer.sums
}

/// Which parameters have a gradient, 1 or 0.
struct Presence<'a> {
    gradients: &'a GradientsParams,
    of_params: Vec<f32>,
}

impl ModuleVisitor for Presence<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.of_params.push(f32::from(self.gradients.get::<D>(param.id).is_some()));
    }
}

struct Reader<'a> {
    gradients: &'a GradientsParams,
    of_params: std::slice::Iter<'a, f32>,
    values: Vec<f32>,
}

impl ModuleVisitor for Reader<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.of_params.next().is_none_or(|&processes| processes == 0.0) {
            return;
        }
        match self.gradients.get::<D>(param.id) {
            Some(gradient) => self.values.extend(gradient.into_data().iter::<f32>()),
            None => self.values.resize(self.values.len() + param.shape().num_elements(), 0.0),
        }
    }
}

struct Writer<'a> {
    of_params: std::slice::Iter<'a, f32>,
    values: &'a [f32],
    sums: GradientsParams,
}

impl ModuleVisitor for Writer<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.of_params.next().is_none_or(|&processes| processes == 0.0) {
            return;
        }
        let value = param.val();
        let (own, rest) = self.values.split_at(value.shape().num_elements());
        self.values = rest;
        let device = value.device();
        let device = if device.is_autodiff() { value.inner().device() } else { device };
        let sum = Tensor::<D>::from_data(TensorData::new(own.to_vec(), param.shape()), &device);
        self.sums.register(param.id, sum);
    }
}

/// FNV-1a over the bits of every parameter that trains. Running statistics may differ between processes, weights may not.
pub(super) fn weights_hash<M: Module>(module: &M) -> u64 {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    module.visit(&mut hash);
    hash.0
}

struct Hash(u64);

impl ModuleVisitor for Hash {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.is_require_grad() {
            return;
        }
        for value in value.into_data().iter::<f32>() {
            self.0 = (self.0 ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// # Errors
///
/// The weights of some process are not those of rank 0.
pub(super) fn check_same_weights<M: Module>(module: &M, iteration: usize, peers: &Peers) -> Result<(), TrainError> {
    if peers.is_alone() {
        return Ok(());
    }
    let hashes = peers.gather(&weights_hash(module).to_le_bytes());
    match hashes.iter().position(|hash| *hash != hashes[0]) {
        None => Ok(()),
        Some(rank) => Err(TrainError::WeightsDiffer { iteration, rank }),
    }
}

/// The detector with the running statistics of rank 0, so that all processes evaluate the same one.
pub(super) fn with_statistics_of_first<M: Module>(module: M, peers: &Peers) -> M {
    if peers.is_alone() { module } else { module.map(&mut FromFirst { peers, path: Vec::new() }) }
}

struct FromFirst<'a> {
    peers: &'a Peers,
    path: Vec<String>,
}

impl ModuleMapper for FromFirst<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.path.last().is_some_and(|name| name.starts_with("running_")) {
            return param;
        }
        let (id, value, mapper) = param.consume();
        let (device, dims) = (value.device(), value.dims());
        let bytes = self.peers.broadcast(value.into_data().iter::<f32>().flat_map(f32::to_le_bytes).collect());
        let (values, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        Param::from_mapped_value(id, Tensor::from_data(TensorData::new(values, dims), &device), mapper)
    }
}

/// Whether any process says so.
pub(super) fn any(own: bool, peers: &Peers) -> bool {
    let mut count = [f64::from(u8::from(own))];
    peers.sum_f64(&mut count);
    count[0] > 0.0
}
