//! A layer over a group, and the same layer on one process that has all maps.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use cbn::process_group::Peers;
use cbn::{BatchNormConfig, ConvNorm, Norm, NormConfig};
use serde::{Deserialize, Serialize};

use crate::common::{block, floats, random, relative_error, training_device};

/// What a process computes in one iteration.
#[derive(Serialize, Deserialize)]
pub struct Pass {
    pub output: Vec<f32>,
    pub grad_x: Vec<f32>,
    pub grad_weight: Vec<f32>,
    pub grad_affine: [Vec<f32>; 2],
    pub running: [Vec<f32>; 2],
}

/// Inputs of the ranks, the directions that make their losses, and the convolution's weight: plain numbers, so that each thread has graphs of its own.
#[derive(Clone)]
pub struct Case {
    pub sizes: Vec<usize>,
    pub inputs: Vec<Vec<f32>>,
    pub directions: Vec<Vec<f32>>,
    weights: Vec<Vec<f32>>,
}

const SIDE: usize = 5;

impl Case {
    /// `iterations` of batches of these sizes, whose channels have means away from 0.
    pub fn new(sizes: &[usize], iterations: usize) -> Self {
        let device = training_device();
        let draw = |size: usize, channels: usize| floats(random([size.max(1), channels, SIDE, SIDE], &device));
        let cut = |values: Vec<f32>, size: usize, channels: usize| values[..size * channels * SIDE * SIDE].to_vec();
        let maps = |channels: usize| {
            let all = (0..iterations).flat_map(|_| sizes).map(|&size| cut(draw(size, channels), size, channels));
            all.collect::<Vec<_>>()
        };
        let weights = (0..iterations).map(|i| {
            let start = random([6, 4, 3, 3], &device) * 0.2;
            floats(start * if i == 0 { 1.0 } else { 0.1 })
        });
        Self { sizes: sizes.to_vec(), inputs: maps(4), directions: maps(6), weights: weights.collect() }
    }

    /// The same with all maps in one process.
    pub fn joined(&self) -> Self {
        let join = |maps: &[Vec<f32>]| maps.chunks(self.sizes.len()).map(<[_]>::concat).collect();
        Self {
            sizes: vec![self.sizes.iter().sum()],
            inputs: join(&self.inputs),
            directions: join(&self.directions),
            weights: self.weights.clone(),
        }
    }

    /// The iterations of one rank; the weight of each is the sum of those drawn so far.
    pub fn run(&self, norm: &NormConfig, peers: &Peers) -> Vec<Pass> {
        let device = Device::default().autodiff();
        let mut layer = block(norm.clone().among(peers), &device);
        let ranks = self.sizes.len();
        let size = self.sizes[peers.rank()];
        let mut weight = vec![0.0; 6 * 4 * 9];
        let mut passes = Vec::new();
        for (iteration, change) in self.weights.iter().enumerate() {
            weight.iter_mut().zip(change).for_each(|(weight, change)| *weight += change);
            let values = TensorData::new(weight.clone(), [6, 4, 3, 3]);
            layer.weight = Param::from_tensor(Tensor::from_data(values, &device));
            let place = iteration * ranks + peers.rank();
            let map = |values: &[f32], channels: usize| {
                Tensor::<4>::from_data(TensorData::new(values.to_vec(), [size, channels, SIDE, SIDE]), &device)
            };
            let x = map(&self.inputs[place], 4).require_grad();
            let direction = map(&self.directions[place], 6);
            passes.push(pass(&layer, x, direction));
        }
        passes
    }
}

fn pass(layer: &ConvNorm, x: Tensor<4>, direction: Tensor<4>) -> Pass {
    let output = layer.forward_nchw(x.clone());
    let grads = (output.clone() * direction).sum().backward();
    let (affine, running) = match &layer.norm {
        Norm::Batch(norm) | Norm::Sync(norm) => {
            ([&norm.gamma, &norm.beta].map(Param::val), [&norm.running_mean, &norm.running_var])
        }
        Norm::CrossIteration(norm) => {
            let affine = [&norm.gamma, &norm.beta].map(|param| param.as_ref().expect("affine by default").val());
            (affine, [&norm.running_mean, &norm.running_var])
        }
        other => panic!("no such norm here: {other:?}"),
    };
    Pass {
        output: floats(output),
        grad_x: floats(x.grad(&grads).expect("x is tracked")),
        grad_weight: floats(layer.weight.val().grad(&grads).expect("the weight trains")),
        grad_affine: affine.map(|param| floats(param.grad(&grads).expect("gamma and beta train"))),
        running: running.map(|buffer| floats(buffer.value())),
    }
}

/// The norm over a group, and what it is on one process.
pub fn sync_and_batch() -> [NormConfig; 2] {
    [NormConfig::Sync, NormConfig::Batch].map(|kind| kind(BatchNormConfig::default()))
}

/// The largest difference between the ranks' iterations and those of one process that has all maps, over every output and gradient: relative,
/// L2, and of what.
///
/// # Panics
///
/// If running statistics do not have the same bits on all ranks.
pub fn worst_difference(of_ranks: &[Vec<Pass>], expected: &[Pass]) -> (f64, String) {
    let mut worst = (0.0, String::new());
    let mut compare = |found: &[f32], expected: &[f32], what: String| {
        let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
        let error = relative_error(found, &expected);
        if error.is_nan() || error > worst.0 {
            worst = (error, what);
        }
    };
    let add = |parts: Vec<&Vec<f32>>| -> Vec<f32> {
        (0..parts[0].len()).map(|i| parts.iter().map(|part| part[i]).sum()).collect()
    };
    for (iteration, expected) in expected.iter().enumerate() {
        let ranks: Vec<&Pass> = of_ranks.iter().map(|passes| &passes[iteration]).collect();
        let joined =
            |field: fn(&Pass) -> &Vec<f32>| ranks.iter().flat_map(|pass| field(pass)).copied().collect::<Vec<_>>();
        let summed = |field: fn(&Pass) -> &Vec<f32>| add(ranks.iter().map(|pass| field(pass)).collect());
        let what = |what: &str| format!("{what} of iteration {iteration}");
        compare(&joined(|pass| &pass.output), &expected.output, what("output"));
        compare(&joined(|pass| &pass.grad_x), &expected.grad_x, what("gradient of x"));
        compare(&summed(|pass| &pass.grad_weight), &expected.grad_weight, what("gradient of the weight"));
        compare(&summed(|pass| &pass.grad_affine[0]), &expected.grad_affine[0], what("gradient of gamma"));
        compare(&summed(|pass| &pass.grad_affine[1]), &expected.grad_affine[1], what("gradient of beta"));
        for pass in &ranks {
            compare(&pass.running[0], &expected.running[0], what("running mean"));
            compare(&pass.running[1], &expected.running[1], what("running variance"));
            assert_eq!(pass.running, ranks[0].running, "the same bits on all ranks");
        }
    }
    worst
}

/// f32 sums of a few hundred values of order 1, in two orders; a wrong count or a term of one rank only shows at 1e-1.
pub const TOLERANCE: f64 = 1e-5;
