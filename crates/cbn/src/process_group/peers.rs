use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{ProcessGroup, Single};

/// The processes that this one computes with, itself included. By default it is alone, and then nothing here costs anything.
///
/// Clones are the same group, and count their traffic together.
#[derive(Clone, Debug)]
pub struct Peers {
    group: Arc<dyn ProcessGroup>,
    spent: Arc<Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    nanoseconds: AtomicU64,
    bytes: AtomicU64,
}

/// What a process spent on exchanging values since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Time in operations of the group, waiting for slower processes included.
    pub elapsed_s: f64,
    /// What this process handed over to them.
    pub bytes: u64,
}

impl Default for Peers {
    fn default() -> Self {
        Self::new(Single)
    }
}

/// Whether both mean the same processes.
impl PartialEq for Peers {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.group, &other.group) || (self.is_alone() && other.is_alone())
    }
}

impl Peers {
    /// The processes of a group.
    pub fn new(group: impl ProcessGroup + 'static) -> Self {
        Self { group: Arc::new(group), spent: Arc::default() }
    }

    /// The number of this process, `0..size`.
    pub fn rank(&self) -> usize {
        self.group.rank()
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        self.group.size()
    }

    /// Whether there is no other.
    pub fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// Whether this process writes logs and files: rank 0.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// See [`ProcessGroup::sum_f32`].
    pub fn sum_f32(&self, values: &mut [f32]) {
        self.timed(size_of_val(values), |group| group.sum_f32(values));
    }

    /// See [`ProcessGroup::sum_f64`].
    pub fn sum_f64(&self, values: &mut [f64]) {
        self.timed(size_of_val(values), |group| group.sum_f64(values));
    }

    /// See [`ProcessGroup::gather`].
    pub fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.timed(bytes.len(), |group| group.gather(bytes))
    }

    /// See [`ProcessGroup::broadcast`].
    pub fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8> {
        let sent = if self.is_first() { bytes.len() } else { 0 };
        self.timed(sent, |group| group.broadcast(bytes))
    }

    /// See [`ProcessGroup::barrier`].
    pub fn barrier(&self) {
        self.timed(0, |group| group.barrier());
    }

    /// See [`ProcessGroup::abort`].
    pub fn abort(&self) {
        self.group.abort();
    }

    /// What was spent so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            elapsed_s: self.spent.nanoseconds.load(Ordering::Relaxed) as f64 * 1e-9,
            bytes: self.spent.bytes.load(Ordering::Relaxed),
        }
    }

    fn timed<T>(&self, num_bytes: usize, operation: impl FnOnce(&dyn ProcessGroup) -> T) -> T {
        if self.is_alone() {
            return operation(&*self.group);
        }
        let began = Instant::now();
        let result = operation(&*self.group);
        let nanoseconds = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.spent.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        self.spent.bytes.fetch_add(num_bytes as u64, Ordering::Relaxed);
        result
    }
}
