//! Norms over a group against the same norms on one process that has all maps. Threads stand for processes here, `mpi.rs` has real ones.

mod common;
#[path = "common/over_peers.rs"]
mod over_peers;

use cbn::norm::cbn::{HistoryGradient, StatisticsScope};
use cbn::process_group::{Peers, Threads};
use cbn::{CbnConfig, NormConfig};
use common::cbn;
use over_peers::{Case, Pass, TOLERANCE, sync_and_batch, worst_difference};

/// Every rank's iterations, on as many threads.
fn run_on_threads(case: &Case, norm: &NormConfig) -> Vec<Vec<Pass>> {
    std::thread::scope(|scope| {
        let group = Threads::group(case.sizes.len());
        let threads: Vec<_> = group.into_iter().map(|peers| scope.spawn(move || case.run(norm, &peers))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

/// Runs the case on as many threads as it has ranks, and all of it on one.
fn assert_same(case: &Case, over_group: &NormConfig, on_one: &NormConfig) {
    let expected = case.joined().run(on_one, &Peers::default());
    let (error, what) = worst_difference(&run_on_threads(case, over_group), &expected);
    assert!(error < TOLERANCE, "{what}: {error:e}");
}

#[test]
fn sync_norm_is_batch_norm_over_all_maps() {
    let [sync, batch] = sync_and_batch();
    for sizes in [&[1, 1][..], &[3, 1, 2], &[2, 1, 1, 4]] {
        assert_same(&Case::new(sizes, 2), &sync, &batch);
    }
}

/// A head without a region still takes part: else the others would wait for it.
#[test]
fn a_rank_without_maps_takes_part() {
    let [sync, batch] = sync_and_batch();
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
    let [sync, _] = sync_and_batch();
    let run = |case: &Case| -> Vec<Pass> {
        run_on_threads(case, &sync).into_iter().map(|mut passes| passes.remove(0)).collect()
    };
    let gradient = run(&case).remove(0).grad_x;
    let loss_with = |index: usize, by: f32| -> f64 {
        let mut moved = case.clone();
        moved.inputs[0][index] += by;
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
