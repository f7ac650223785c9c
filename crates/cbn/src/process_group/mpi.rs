//! A group of MPI processes.

use std::sync::{Mutex, PoisonError};

use mpi::Threading;
use mpi::collective::Root;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence};
use thiserror::Error;

use super::{Peers, ProcessGroup, sum_of_gathered, to_bytes};

/// Sums of fewer bytes are one exchange of everything; larger ones are split over the processes, which is twice as many messages.
const SPLIT_FROM_BYTES: usize = 32 * 1024;
/// What is split goes in pieces of so many values: one buffer for them all stays in the cache, and its pages are there from the second piece on.
const PIECE_VALUES: usize = 256 * 1024;

/// The processes that `mpirun` or `srun` started.
///
/// MPI's errors are fatal to the whole job, and so is a panic that drops the last handle. Dropped otherwise, it finalises MPI.
#[derive(Debug)]
pub struct Mpi {
    rank: usize,
    size: usize,
    /// Held for as long as MPI is used; the lock keeps its operations apart.
    universe: Mutex<Held>,
}

/// A universe; it has no debug form of its own.
struct Held(#[expect(dead_code, reason = "dropping it finalises MPI")] Universe);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MPI_COMM_WORLD")
    }
}

impl Mpi {
    /// Initialises MPI. The calling thread need not be the one that uses it.
    ///
    /// # Errors
    ///
    /// It is initialised already, or cannot be called from several threads.
    pub fn init() -> Result<Peers, MpiError> {
        let (universe, threading) =
            mpi::initialize_with_threading(Threading::Serialized).ok_or(MpiError::InitialisedAlready)?;
        if threading < Threading::Serialized {
            return Err(MpiError::Threading { found: format!("{threading:?}") });
        }
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        Ok(Peers::new(Self { rank, size, universe: Mutex::new(Held(universe)) }))
    }

    fn with_world<T>(&self, operation: impl FnOnce(&SimpleCommunicator) -> T) -> T {
        let _one_at_a_time = self.universe.lock().unwrap_or_else(PoisonError::into_inner);
        operation(&SimpleCommunicator::world())
    }

    /// Every process sums one part of the values, in the order of ranks, and hands it to all: `2 (N - 1) / N` of the values are sent. The processes
    /// divide their number.
    fn sum_split<T>(&self, values: &mut [T])
    where
        T: Equivalence + Copy + Default + std::ops::AddAssign,
    {
        let mut received = Vec::new();
        let piece = PIECE_VALUES.next_multiple_of(self.size);
        for values in values.chunks_mut(piece) {
            let part = values.len() / self.size;
            received.resize(values.len(), T::default());
            self.with_world(|world| {
                world.all_to_all_into(&*values, &mut received[..]);
                let (sums, others) = received.split_at_mut(part);
                for of_rank in others.chunks_exact(part) {
                    for (sum, &value) in sums.iter_mut().zip(of_rank) {
                        *sum += value;
                    }
                }
                world.all_gather_into(&*sums, values);
            });
        }
    }

    /// Where the sums are split, the values that are left over when all have equal parts go the way of the few.
    fn sum<T, const N: usize>(&self, values: &mut [T], bytes_of: impl Fn(T) -> [u8; N], value_of: impl Fn([u8; N]) -> T)
    where
        T: Equivalence + Copy + Default + std::ops::AddAssign,
    {
        let is_split = size_of_val(values) >= SPLIT_FROM_BYTES;
        let num_split = if is_split { values.len() - values.len() % self.size } else { 0 };
        let (split, rest) = values.split_at_mut(num_split);
        if !split.is_empty() {
            self.sum_split(split);
        }
        if !rest.is_empty() {
            sum_of_gathered(self.gather(&to_bytes(rest, bytes_of)), rest, value_of);
        }
    }
}

impl Drop for Mpi {
    /// Finalising waits for all, and others may be waiting for this process: a panic must not lead there.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort();
        }
    }
}

impl ProcessGroup for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let count = |len: usize| i32::try_from(len).expect("MPI counts in 32 bits: at most 2 GiB at once");
        self.with_world(|world| {
            let mut counts = vec![0i32; self.size];
            world.all_gather_into(&count(bytes.len()), &mut counts[..]);
            let starts: Vec<i32> = counts
                .iter()
                .scan(0, |next, &len| Some(std::mem::replace(next, count((*next as usize) + len as usize))))
                .collect();
            let mut received = vec![0u8; counts.iter().map(|&len| len as usize).sum()];
            if received.is_empty() {
                return vec![Vec::new(); self.size];
            }
            // The address of an empty vector of bytes is 1, which is what OpenMPI calls MPI_IN_PLACE.
            let bytes = if bytes.is_empty() { &[0][..0] } else { bytes };
            world.all_gather_varcount_into(bytes, &mut PartitionMut::new(&mut received[..], &counts[..], &starts[..]));
            let of_rank = |(&start, &len): (&i32, &i32)| received[start as usize..][..len as usize].to_vec();
            starts.iter().zip(&counts).map(of_rank).collect()
        })
    }

    fn sum_f32(&self, values: &mut [f32]) {
        self.sum(values, f32::to_le_bytes, f32::from_le_bytes);
    }

    fn sum_f64(&self, values: &mut [f64]) {
        self.sum(values, f64::to_le_bytes, f64::from_le_bytes);
    }

    fn broadcast(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        self.with_world(|world| {
            let root = world.process_at_rank(0);
            let mut len = bytes.len() as u64;
            root.broadcast_into(&mut len);
            bytes.resize(len as usize, 0);
            // MPI counts in 32 bits.
            bytes.chunks_mut(1 << 30).for_each(|part| root.broadcast_into(part));
        });
        bytes
    }

    fn barrier(&self) {
        self.with_world(|world| world.barrier());
    }

    fn abort(&self) {
        // Not under the lock: another thread may hold it, waiting for a process that will not come.
        SimpleCommunicator::world().abort(1);
    }
}

/// Why there is no group of MPI processes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MpiError {
    /// Somebody called `MPI_Init` before.
    #[error("MPI is initialised already in this process, or the library refused to: start one group, once")]
    InitialisedAlready,
    /// The library allows only the main thread.
    #[error("this MPI library offers thread level {found}, Serialized is needed: use one built with thread support")]
    Threading {
        /// What it offers.
        found: String,
    },
}
