use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::DataError;

type Made<T> = Result<T, DataError>;
type Produce<T> = Arc<dyn Fn(usize) -> Made<T> + Send + Sync>;

/// Items made ahead of time on worker threads and handed out in order.
///
/// Worker k of n makes the items k, k + n, k + 2n, ... into its own bounded queue, so the order does not depend on which
/// worker is faster and no worker runs far ahead. A panic while an item is made is an error in its place. Dropping the iterator stops the workers.
pub(super) struct Prefetch<T> {
    produce: Produce<T>,
    workers: Vec<Worker<T>>,
    next: usize,
    len: usize,
}

struct Worker<T> {
    items: Receiver<Made<T>>,
    thread: JoinHandle<()>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Makes `produce(0)`, ..., `produce(len - 1)`, at most about `queue` of them ahead. Without workers, each is made when
    /// it is asked for.
    pub(super) fn new(
        len: usize,
        num_workers: usize,
        queue: usize,
        produce: impl Fn(usize) -> Made<T> + Send + Sync + 'static,
    ) -> Self {
        let produce: Produce<T> = Arc::new(move |index| without_panic(|| produce(index)));
        let num_workers = num_workers.min(len);
        let workers = (0..num_workers)
            .map(|worker| {
                let (sender, items) = sync_channel((queue / num_workers).max(1));
                let produce = Arc::clone(&produce);
                let thread = std::thread::spawn(move || {
                    // An error from `send` means that nobody listens any more.
                    let _ = (worker..len).step_by(num_workers).try_for_each(|index| sender.send(produce(index)));
                });
                Worker { items, thread }
            })
            .collect();
        Self { produce, workers, next: 0, len }
    }
}

/// The item, or the panic as an error.
fn without_panic<T>(produce: impl FnOnce() -> Made<T>) -> Made<T> {
    // What a panic left half done is dropped with the item.
    catch_unwind(AssertUnwindSafe(produce)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(DataError::WorkerPanic { message })
    })
}

impl<T> Iterator for Prefetch<T> {
    type Item = Made<T>;

    fn next(&mut self) -> Option<Made<T>> {
        if self.next == self.len {
            return None;
        }
        let index = self.next;
        self.next += 1;
        if self.workers.is_empty() {
            return Some((self.produce)(index));
        }
        let gone = |_| Err(DataError::WorkerPanic { message: "its thread is gone".to_owned() });
        Some(self.workers[index % self.workers.len()].items.recv().unwrap_or_else(gone))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len - self.next, Some(self.len - self.next))
    }
}

impl<T> ExactSizeIterator for Prefetch<T> {}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        // All queues are closed before any thread is waited for.
        let threads: Vec<_> = self.workers.drain(..).map(|worker| worker.thread).collect();
        for thread in threads {
            // A panic nobody asked the item of is not worth a second one.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_whatever_the_workers_do() {
        for num_workers in 0..5 {
            let slow_at_odd = |index: usize| {
                std::thread::sleep(std::time::Duration::from_millis((index % 2) as u64));
                Ok(index)
            };
            let items: Vec<usize> = Prefetch::new(17, num_workers, 3, slow_at_odd).map(Result::unwrap).collect();
            assert_eq!(items, (0..17).collect::<Vec<_>>());
        }
    }

    #[test]
    fn dropping_it_early_ends_the_workers() {
        let counter = Arc::new(());
        let held = Arc::clone(&counter);
        let mut items = Prefetch::new(1000, 2, 4, move |index| Ok((index, Arc::strong_count(&held))));
        assert_eq!(items.next().map(|item| item.unwrap().0), Some(0));
        drop(items);
        assert_eq!(Arc::strong_count(&counter), 1);
    }

    #[test]
    fn a_panic_is_an_error_in_the_place_of_its_item() {
        for num_workers in [0, 2] {
            let broken = |index: usize| if index == 3 { panic!("item {index} is broken") } else { Ok(index) };
            let items: Vec<Made<usize>> = Prefetch::new(6, num_workers, 4, broken).collect();
            let message = items[3].as_ref().unwrap_err().to_string();
            assert!(message.contains("panicked: item 3 is broken"), "{message}");
            assert!([0, 1, 2, 4, 5].iter().all(|&index| matches!(items[index], Ok(item) if item == index)));
        }
    }
}
