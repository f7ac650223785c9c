//! The group of MPI processes, and norms over it: `cargo xtask test-mpi` starts this with `mpirun`, and prints what it prints.

#![allow(clippy::print_stdout, reason = "its own harness tells what was found")]

mod common;
#[path = "common/over_peers.rs"]
mod over_peers;

use std::panic::{AssertUnwindSafe, catch_unwind};

use cbn::norm::cbn::StatisticsScope;
use cbn::process_group::{Mpi, Peers};
use cbn::{CbnConfig, NormConfig};
use common::cbn;
use over_peers::{Case, Pass, TOLERANCE, sync_and_batch, worst_difference};

fn main() {
    let peers = Mpi::init().expect("the processes find each other");
    if peers.is_alone() {
        println!("skipped: one process alone; cargo xtask test-mpi starts several");
        return;
    }
    let passed = catch_unwind(AssertUnwindSafe(|| {
        sums_are_in_the_order_of_ranks(&peers);
        bytes_of_any_length_are_gathered_and_broadcast(&peers);
        norms_are_those_of_all_maps(&peers);
    }));
    if passed.is_err() {
        // The others may be waiting.
        peers.abort();
    }
}

/// Lengths on both sides of the one from which sums are split over the processes, and such that the parts are not equal.
fn sums_are_in_the_order_of_ranks(peers: &Peers) {
    for len in [0, 1, 1000, 8 * 1024, 100_003] {
        // Of very different size, so that another order gives other bits.
        let of_rank = |rank: usize| -> Vec<f32> {
            (0..len).map(|i| (i as f32 + 0.1) * [1.0, 1e8, -1e8, 3.0][(rank + i) % 4]).collect()
        };
        let ranks: Vec<Vec<f32>> = (0..peers.size()).map(of_rank).collect();
        let expected: Vec<f32> = (0..len).map(|i| ranks.iter().fold(0.0, |sum, rank| sum + rank[i])).collect();
        let mut sums = ranks[peers.rank()].clone();
        peers.sum_f32(&mut sums);
        assert_eq!(sums, expected, "{len} values");
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let expected: Vec<f64> =
            (0..len).map(|i| ranks.iter().fold(0.0, |sum, rank| sum + f64::from(rank[i]))).collect();
        let mut sums = wide(&ranks[peers.rank()]);
        peers.sum_f64(&mut sums);
        assert_eq!(sums, expected, "{len} values in double precision");
    }
}

fn bytes_of_any_length_are_gathered_and_broadcast(peers: &Peers) {
    let of_rank = |rank: usize| vec![rank as u8; rank * 1000];
    let gathered = peers.gather(&of_rank(peers.rank()));
    assert!(gathered.into_iter().eq((0..peers.size()).map(of_rank)));
    assert_eq!(peers.broadcast(vec![peers.rank() as u8; 7 + peers.rank()]), [0; 7]);
    peers.barrier();
}

fn norms_are_those_of_all_maps(peers: &Peers) {
    let [sync, batch] = sync_and_batch();
    let released = CbnConfig { window: 3, ..CbnConfig::paper() };
    let group = CbnConfig { scope: StatisticsScope::Group, ..released.clone() };
    let sizes = |of_ranks: [usize; 4]| (0..peers.size()).map(|rank| of_ranks[rank % 4]).collect::<Vec<_>>();
    let cases = [
        ("SyncBN, unequal counts", sizes([3, 1, 2, 4]), &sync, &batch),
        ("SyncBN, one rank without maps", sizes([2, 0, 1, 1]), &sync, &batch),
        ("group CBN, window 3", sizes([2, 1, 1, 3]), &cbn(group), &cbn(released)),
    ];
    for (name, sizes, over_group, on_one) in cases {
        let (error, what) = over_mpi(&Case::new(&sizes, 4), (over_group, on_one), peers);
        assert!(error < TOLERANCE, "{name}: {what}: {error:e}");
        if peers.is_first() {
            println!("{name} {sizes:?}: {error:.1e} ({what})");
        }
    }
}

fn over_mpi(case: &Case, (over_group, on_one): (&NormConfig, &NormConfig), peers: &Peers) -> (f64, String) {
    let own = serde_json::to_vec(&case.run(over_group, peers)).expect("numbers");
    let of_ranks: Vec<Vec<Pass>> =
        peers.gather(&own).iter().map(|bytes| serde_json::from_slice(bytes).expect("numbers")).collect();
    worst_difference(&of_ranks, &case.joined().run(on_one, &Peers::default()))
}
