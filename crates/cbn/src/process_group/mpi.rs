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

/// The processes that `mpirun` or `srun` started.
///
/// MPI's errors are fatal to the whole job. When the last handle is dropped, MPI is finalised.
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

    /// Every process sums one part of the values, in the order of ranks, and hands it to all: `2 (N - 1) / N` of the values are sent.
    fn sum_split<T>(&self, values: &mut [T])
    where
        T: Equivalence + Copy + Default + std::ops::AddAssign,
    {
        let part = values.len().div_ceil(self.size);
        let mut sent = values.to_vec();
        sent.resize(part * self.size, T::default());
        let mut received = vec![T::default(); sent.len()];
        self.with_world(|world| {
            world.all_to_all_into(&sent[..], &mut received[..]);
            let (sums, others) = received.split_at_mut(part);
            for of_rank in others.chunks_exact(part) {
                for (sum, &value) in sums.iter_mut().zip(of_rank) {
                    *sum += value;
                }
            }
            world.all_gather_into(&*sums, &mut sent[..]);
        });
        values.copy_from_slice(&sent[..values.len()]);
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
            world.all_gather_varcount_into(bytes, &mut PartitionMut::new(&mut received[..], &counts[..], &starts[..]));
            let of_rank = |(&start, &len): (&i32, &i32)| received[start as usize..][..len as usize].to_vec();
            starts.iter().zip(&counts).map(of_rank).collect()
        })
    }

    fn sum_f32(&self, values: &mut [f32]) {
        if size_of_val(values) < SPLIT_FROM_BYTES {
            sum_of_gathered(self.gather(&to_bytes(values, f32::to_le_bytes)), values, f32::from_le_bytes);
        } else {
            self.sum_split(values);
        }
    }

    fn sum_f64(&self, values: &mut [f64]) {
        if size_of_val(values) < SPLIT_FROM_BYTES {
            sum_of_gathered(self.gather(&to_bytes(values, f64::to_le_bytes)), values, f64::from_le_bytes);
        } else {
            self.sum_split(values);
        }
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
