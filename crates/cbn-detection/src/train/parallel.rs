//! What a step exchanges with the other processes of a run.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use cbn::process_group::Peers;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{NamedTensors, TrainError};

/// Gradients of at least so many values are added up where they lie; smaller ones together.
const LARGE_VALUES: usize = 64 * 1024;

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

    let sums = GradientsParams::new();
    let mut large = SumLarge { gradients, of_params: of_params.iter(), peers, small: Vec::new(), sums };
    module.visit(&mut large);
    let SumLarge { mut small, sums, .. } = large;
    peers.sum_f32(&mut small);
    let mut rest = TakeSmall { of_params: of_params.iter(), small: &small, sums };
    module.visit(&mut rest);
    rest.sums
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

/// Adds up the large gradients, and collects the values of the small ones.
struct SumLarge<'a> {
    gradients: GradientsParams,
    of_params: std::slice::Iter<'a, f32>,
    peers: &'a Peers,
    small: Vec<f32>,
    sums: GradientsParams,
}

impl ModuleVisitor for SumLarge<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.of_params.next().is_none_or(|&processes| processes == 0.0) {
            return;
        }
        let mut data = match self.gradients.remove::<D>(param.id) {
            Some(gradient) => gradient.into_data(),
            None => TensorData::zeros::<f32, _>(param.shape()),
        };
        let values = data.as_mut_slice::<f32>().expect("gradients are f32");
        if values.len() < LARGE_VALUES {
            self.small.extend_from_slice(values);
            return;
        }
        self.peers.sum_f32(values);
        self.sums.register(param.id, Tensor::<D>::from_data(data, &plain_device(param)));
    }
}

/// Hands the sums of the small gradients out.
struct TakeSmall<'a> {
    of_params: std::slice::Iter<'a, f32>,
    small: &'a [f32],
    sums: GradientsParams,
}

impl ModuleVisitor for TakeSmall<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let num_values = param.shape().num_elements();
        if self.of_params.next().is_none_or(|&processes| processes == 0.0) || num_values >= LARGE_VALUES {
            return;
        }
        let (own, rest) = self.small.split_at(num_values);
        self.small = rest;
        let sum = TensorData::new(own.to_vec(), param.shape());
        self.sums.register(param.id, Tensor::<D>::from_data(sum, &plain_device(param)));
    }
}

/// The device of a parameter's gradient.
fn plain_device<const D: usize>(param: &Param<Tensor<D>>) -> Device {
    let value = param.val();
    if value.device().is_autodiff() { value.inner().device() } else { value.device() }
}

/// Over the bits of every parameter that trains. Running statistics may differ between processes, weights may not.
pub(super) fn weights_hash<M: Module>(module: &M) -> u64 {
    let mut hash = Hash(Xxh3::new());
    module.visit(&mut hash);
    hash.0.digest()
}

struct Hash(Xxh3);

impl ModuleVisitor for Hash {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad() {
            self.0.update(value.into_data().as_bytes());
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

/// Of each process after the first, the tensors that it has otherwise than that one, which alone is told them. What is the same everywhere is
/// not sent.
pub(super) fn tensors_of_others(own: &NamedTensors, peers: &Peers) -> Vec<NamedTensors> {
    let mut others = vec![NamedTensors::new(); peers.size() - 1];
    if peers.is_alone() {
        return others;
    }
    let hashes: Vec<u8> = own.values().flat_map(|data| xxh3_64(data.as_bytes()).to_le_bytes()).collect();
    let hashes = peers.gather(&hashes);
    for (place, (name, data)) in own.iter().enumerate() {
        let hash = |rank: usize| hashes[rank].as_chunks::<8>().0[place];
        if (1..peers.size()).all(|rank| hash(rank) == hash(0)) {
            continue;
        }
        let of_ranks = peers.gather(data.as_bytes());
        if !peers.is_first() {
            continue;
        }
        for (rank, bytes) in of_ranks.into_iter().enumerate().filter(|&(rank, _)| hash(rank) != hash(0)) {
            let data = TensorData::from_bytes_vec(bytes, data.shape().to_vec(), data.dtype());
            others[rank - 1].insert(name.clone(), data);
        }
    }
    others
}

/// Whether any process says so.
pub(super) fn any(own: bool, peers: &Peers) -> bool {
    let mut count = [f64::from(u8::from(own))];
    peers.sum_f64(&mut count);
    count[0] > 0.0
}
