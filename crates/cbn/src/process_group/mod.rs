//! Processes that train one model together, and what they exchange.
//!
//! A [`ProcessGroup`] is the transport, [`Peers`] the handle through which layers and loops use it.

#[cfg(feature = "cuda")]
mod gpus;
#[cfg(feature = "mpi")]
mod mpi;
mod peers;
mod threads;

use std::fmt::Debug;

#[cfg(feature = "cuda")]
pub use self::gpus::Gpus;
#[cfg(feature = "mpi")]
pub use self::mpi::{Mpi, MpiError};
pub use self::peers::{Peers, Traffic};
pub use self::threads::Threads;

/// Processes, numbered from 0, that call the same operations in the same order.
///
/// Every operation waits for all of them. A member that leaves while others wait is no error they can handle: a thread panics, MPI ends the job.
/// The defaults are the definitions, on [`gather`](Self::gather) alone.
pub trait ProcessGroup: Debug + Send + Sync {
    /// The number of this process, `0..size`.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// What every process passed, by rank; the lengths may differ.
    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>>;

    /// Replaces each value by its sum over the processes, in the order of ranks: the same bits on all.
    fn sum_f32(&self, values: &mut [f32]) {
        sum_of_gathered(self.gather(&to_bytes(values, f32::to_le_bytes)), values, f32::from_le_bytes);
    }

    /// The same in double precision.
    fn sum_f64(&self, values: &mut [f64]) {
        sum_of_gathered(self.gather(&to_bytes(values, f64::to_le_bytes)), values, f64::from_le_bytes);
    }

    /// What rank 0 passed.
    fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8> {
        let sent = if self.rank() == 0 { bytes } else { Vec::new() };
        self.gather(&sent).swap_remove(0)
    }

    /// Waits for all.
    fn barrier(&self) {
        self.gather(&[]);
    }

    /// Ends all processes at once, where one of them has failed and the others may be waiting for it.
    fn abort(&self) {}
}

/// One process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Single;

impl ProcessGroup for Single {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        vec![bytes.to_vec()]
    }

    fn sum_f32(&self, _values: &mut [f32]) {}

    fn sum_f64(&self, _values: &mut [f64]) {}
}

fn to_bytes<T: Copy, const N: usize>(values: &[T], bytes_of: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes_of(value)).collect()
}

/// # Panics
///
/// If the processes passed different numbers of values: they do not compute the same thing.
fn sum_of_gathered<T, const N: usize>(gathered: Vec<Vec<u8>>, sums: &mut [T], value_of: impl Fn([u8; N]) -> T)
where
    T: Copy + Default + std::ops::AddAssign,
{
    sums.fill(T::default());
    for (rank, bytes) in gathered.into_iter().enumerate() {
        let (values, rest) = bytes.as_chunks::<N>();
        assert!(rest.is_empty() && values.len() == sums.len(), "rank {rank} sums {}, not {}", values.len(), sums.len());
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += value_of(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of `size` threads makes of its handle.
    fn on_threads<T: Send>(size: usize, work: impl Fn(Peers) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let handles: Vec<_> = Threads::group(size).into_iter().map(|peers| scope.spawn(|| work(peers))).collect();
            handles.into_iter().map(|handle| handle.join().expect("no member leaves early")).collect()
        })
    }

    #[test]
    fn sums_are_in_the_order_of_ranks_and_the_same_everywhere() {
        // 1e8 swallows a lone 1 in f32, so another order gives another sum.
        let of_rank = [1.0f32, 1e8, -1e8, 1.0];
        let sums = on_threads(4, |peers| {
            let mut values = vec![of_rank[peers.rank()], peers.rank() as f32];
            peers.sum_f32(&mut values);
            values
        });
        let expected = [of_rank.iter().fold(0.0, |sum, x| sum + x), 6.0];
        assert!(sums.iter().all(|sum| *sum == expected), "{sums:?}");
    }

    #[test]
    fn gathering_and_broadcasting_keep_lengths_and_ranks() {
        let results = on_threads(3, |peers| {
            let mine = vec![peers.rank() as u8; peers.rank()];
            let gathered = peers.gather(&mine);
            peers.barrier();
            (gathered, peers.broadcast(vec![7, peers.rank() as u8]))
        });
        for (gathered, sent) in results {
            assert_eq!(gathered, [vec![], vec![1], vec![2, 2]]);
            assert_eq!(sent, [7, 0]);
        }
    }

    #[test]
    fn many_rounds_do_not_mix() {
        let totals = on_threads(3, |peers| {
            (0..500u32)
                .map(|round| {
                    let mut value = [f64::from(round) * 10.0 + peers.rank() as f64];
                    peers.sum_f64(&mut value);
                    value[0]
                })
                .collect::<Vec<_>>()
        });
        let expected: Vec<f64> = (0..500).map(|round| f64::from(round) * 30.0 + 3.0).collect();
        assert!(totals.iter().all(|of_rank| *of_rank == expected));
    }

    #[test]
    fn who_waits_for_a_member_that_left_panics() {
        let mut group = Threads::group(2);
        drop(group.pop());
        let alone = group.pop().expect("the other one");
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| alone.barrier()));
        assert!(waited.is_err());
    }

    #[test]
    fn traffic_counts_what_is_sent() {
        let traffic = on_threads(2, |peers| {
            peers.sum_f32(&mut [0.0; 10]);
            peers.sum_f64(&mut [0.0; 10]);
            peers.traffic()
        });
        assert!(traffic.iter().all(|traffic| traffic.bytes == 120 && traffic.elapsed_s > 0.0), "{traffic:?}");
        let alone = Peers::default();
        alone.sum_f32(&mut [0.0; 10]);
        assert_eq!(alone.traffic(), Traffic::default());
    }
}
