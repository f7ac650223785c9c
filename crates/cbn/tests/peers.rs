//! Norms over a group against the same norms on one process that has all maps.

mod common;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use cbn::norm::cbn::{HistoryGradient, StatisticsScope};
use cbn::process_group::{Peers, Threads};
use cbn::{BatchNormConfig, CbnConfig, ConvNorm, Norm, NormConfig};
use common::{block, cbn, floats, random, relative_error, training_device};

/// What a process computes in one iteration.
struct Pass {
    output: Vec<f32>,
    grad_x: Vec<f32>,
    grad_weight: Vec<f32>,
    grad_affine: [Vec<f32>; 2],
    running: [Vec<f32>; 2],
}

/// Inputs of the ranks, the directions that make their losses, and the convolution's weight: plain numbers, so that each thread has graphs of its own.
struct Case {
    sizes: Vec<usize>,
    inputs: Vec<Vec<f32>>,
    directions: Vec<Vec<f32>>,
    weights: Vec<Vec<f32>>,
}

const SIDE: usize = 5;

impl Case {
    /// `iterations` of batches of these sizes, whose channels have means away from 0.
    fn new(sizes: &[usize], iterations: usize) -> Self {
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
    fn joined(&self) -> Self {
        let join = |maps: &[Vec<f32>]| maps.chunks(self.sizes.len()).map(<[_]>::concat).collect();
        Self {
            sizes: vec![self.sizes.iter().sum()],
            inputs: join(&self.inputs),
            directions: join(&self.directions),
            weights: self.weights.clone(),
        }
    }

    /// The iterations of one rank; the weight of each is the sum of those drawn so far.
    fn run(&self, norm: &NormConfig, peers: &Peers) -> Vec<Pass> {
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

/// Runs the case on as many threads as it has ranks, and all of it on one, and compares every output and gradient.
fn assert_same(case: &Case, over_group: &NormConfig, on_one: &NormConfig) {
    let of_ranks: Vec<Vec<Pass>> = std::thread::scope(|scope| {
        let group = Threads::group(case.sizes.len());
        let threads: Vec<_> =
            group.into_iter().map(|peers| scope.spawn(move || case.run(over_group, &peers))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    });
    let expected = case.joined().run(on_one, &Peers::default());
    // f32 sums of a few hundred values of order 1, in two orders; a wrong count or a term of one rank only shows at 1e-1.
    let check = |found: &[f32], expected: &[f32], what: &str| {
        let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
        let error = relative_error(found, &expected);
        assert!(error < 1e-5, "{what}: {error:e}");
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
        check(&joined(|pass| &pass.output), &expected.output, &what("output"));
        check(&joined(|pass| &pass.grad_x), &expected.grad_x, &what("gradient of x"));
        check(&summed(|pass| &pass.grad_weight), &expected.grad_weight, &what("gradient of the weight"));
        check(&summed(|pass| &pass.grad_affine[0]), &expected.grad_affine[0], &what("gradient of gamma"));
        check(&summed(|pass| &pass.grad_affine[1]), &expected.grad_affine[1], &what("gradient of beta"));
        for pass in &ranks {
            check(&pass.running[0], &expected.running[0], &what("running mean"));
            check(&pass.running[1], &expected.running[1], &what("running variance"));
            assert_eq!(pass.running, ranks[0].running, "the same bits on all ranks");
        }
    }
}

#[test]
fn sync_norm_is_batch_norm_over_all_maps() {
    let [sync, batch] = [NormConfig::Sync, NormConfig::Batch].map(|kind| kind(BatchNormConfig::default()));
    for sizes in [&[1, 1][..], &[3, 1, 2], &[2, 1, 1, 4]] {
        assert_same(&Case::new(sizes, 2), &sync, &batch);
    }
}

/// A head without a region still takes part: else the others would wait for it.
#[test]
fn a_rank_without_maps_takes_part() {
    let [sync, batch] = [NormConfig::Sync, NormConfig::Batch].map(|kind| kind(BatchNormConfig::default()));
    assert_same(&Case::new(&[2, 0, 1], 2), &sync, &batch);
}

#[test]
fn a_cross_iteration_norm_of_a_group_is_that_of_all_maps() {
    for derivative_sampling in [1, 2] {
        for history_gradient in [HistoryGradient::None, HistoryGradient::ThroughWeight] {
            // Maps of one height are cut into the same strips wherever they are.
            let config = CbnConfig { window: 3, history_gradient, derivative_sampling, ..CbnConfig::paper() };
            let group = CbnConfig { scope: StatisticsScope::Group, ..config.clone() };
            assert_same(&Case::new(&[2, 1], 4), &cbn(group), &cbn(config));
        }
    }
}

/// The loss of all ranks as a function of one input value of one rank.
#[test]
fn gradients_of_a_sync_norm_match_central_differences() {
    let case = Case::new(&[1, 2], 1);
    let sync = NormConfig::Sync(BatchNormConfig::default());
    let run = |case: &Case| -> Vec<Pass> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = Threads::group(2)
                .into_iter()
                .map(|peers| {
                    let (case, sync) = (case, &sync);
                    scope.spawn(move || case.run(sync, &peers).remove(0))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
        })
    };
    let gradient = run(&case).remove(0).grad_x;
    let loss_with = |index: usize, by: f32| -> f64 {
        let mut inputs = case.inputs.clone();
        inputs[0][index] += by;
        let moved = Case {
            inputs,
            sizes: case.sizes.clone(),
            directions: case.directions.clone(),
            weights: case.weights.clone(),
        };
        let passes = run(&moved);
        let of_rank = |(pass, direction): (&Pass, &Vec<f32>)| -> f64 {
            pass.output.iter().zip(direction).map(|(y, d)| f64::from(*y) * f64::from(*d)).sum()
        };
        passes.iter().zip(&case.directions).map(of_rank).sum()
    };
    for index in [0, 37, 62, 99] {
        let step = 2e-2;
        let numeric = (loss_with(index, step) - loss_with(index, -step)) / f64::from(2.0 * step);
        // f32 outputs of order 1 over a step of 4e-2; without the other rank's sums the error is of order 1e-1.
        assert!((f64::from(gradient[index]) - numeric).abs() < 3e-3, "{index}: {} {numeric}", gradient[index]);
    }
}
