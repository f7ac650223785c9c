//! A group within one process: what distributed layers and loops are tested with.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Peers, ProcessGroup};

/// One of several threads that stand for processes. Each must have modules of its own: Burn keeps the graphs of modules that share parameters
/// under one lock.
///
/// ```
/// use cbn::process_group::Threads;
///
/// let sums = std::thread::scope(|scope| {
///     let threads = Threads::group(3).into_iter().map(|peers| {
///         scope.spawn(move || {
///             let mut value = [peers.rank() as f32];
///             peers.sum_f32(&mut value);
///             value[0]
///         })
///     });
///     let threads: Vec<_> = threads.collect();
///     threads.into_iter().map(|thread| thread.join().expect("none panics")).collect::<Vec<_>>()
/// });
/// assert_eq!(sums, [3.0; 3]);
/// ```
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    round: Mutex<Round>,
    changed: Condvar,
}

#[derive(Debug)]
struct Round {
    number: u64,
    sent: Vec<Option<Vec<u8>>>,
    /// Of the round before. Nobody can finish the next one before all have read it.
    received: Arc<Vec<Vec<u8>>>,
    /// Whether a member is gone.
    is_broken: bool,
}

impl Threads {
    /// The handles of a group of `size`, by rank.
    pub fn group(size: usize) -> Vec<Peers> {
        Self::members(size).into_iter().map(Peers::new).collect()
    }

    pub(super) fn members(size: usize) -> Vec<Self> {
        let round = Round { number: 0, sent: vec![None; size], received: Arc::default(), is_broken: false };
        let shared = Arc::new(Shared { round: Mutex::new(round), changed: Condvar::new() });
        (0..size).map(|rank| Self { rank, shared: shared.clone() }).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProcessGroup for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.lock().sent.len()
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut round = self.shared.lock();
        let number = round.number;
        round.sent[self.rank] = Some(bytes.to_vec());
        if round.sent.iter().all(Option::is_some) {
            round.received = Arc::new(round.sent.iter_mut().filter_map(Option::take).collect());
            round.number += 1;
            self.shared.changed.notify_all();
        }
        while round.number == number {
            assert!(!round.is_broken, "a member of the group is gone");
            round = self.shared.changed.wait(round).unwrap_or_else(PoisonError::into_inner);
        }
        let received = round.received.clone();
        drop(round);
        received.as_ref().clone()
    }

    fn abort(&self) {
        self.shared.lock().is_broken = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.abort();
    }
}
