use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

type Produce<T> = Arc<dyn Fn(usize) -> T + Send + Sync>;

/// Items made ahead of time on worker threads and handed out in order.
///
/// Worker k of n makes the items k, k + n, k + 2n, ... into its own bounded queue, so the order does not depend on which
/// worker is faster and no worker runs far ahead. Dropping the iterator stops the workers.
pub(super) struct Prefetch<T> {
    produce: Produce<T>,
    workers: Vec<Worker<T>>,
    next: usize,
    len: usize,
}

struct Worker<T> {
    items: Receiver<T>,
    thread: JoinHandle<()>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Makes `produce(0)`, ..., `produce(len - 1)`, at most about `queue` of them ahead. Without workers, each is made when
    /// it is asked for.
    pub(super) fn new(
        len: usize,
        num_workers: usize,
        queue: usize,
        produce: impl Fn(usize) -> T + Send + Sync + 'static,
    ) -> Self {
        let produce: Produce<T> = Arc::new(produce);
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

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.next == self.len {
            return None;
        }
        let index = self.next;
        self.next += 1;
        if self.workers.is_empty() {
            return Some((self.produce)(index));
        }
        let worker = index % self.workers.len();
        match self.workers[worker].items.recv() {
            Ok(item) => Some(item),
            Err(_) => {
                let panic =
                    self.workers.swap_remove(worker).thread.join().expect_err("a worker ends early by panic only");
                std::panic::resume_unwind(panic)
            }
        }
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
                index
            };
            let items: Vec<usize> = Prefetch::new(17, num_workers, 3, slow_at_odd).collect();
            assert_eq!(items, (0..17).collect::<Vec<_>>());
        }
    }

    #[test]
    fn dropping_it_early_ends_the_workers() {
        let counter = Arc::new(());
        let held = Arc::clone(&counter);
        let mut items = Prefetch::new(1000, 2, 4, move |index| (index, Arc::strong_count(&held)));
        assert_eq!(items.next().map(|(index, _)| index), Some(0));
        drop(items);
        assert_eq!(Arc::strong_count(&counter), 1);
    }

    #[test]
    #[should_panic(expected = "item 3 is broken")]
    fn a_panic_in_a_worker_reaches_the_caller() {
        let broken = |index: usize| if index == 3 { panic!("item 3 is broken") } else { index };
        Prefetch::new(6, 2, 4, broken).for_each(drop);
    }
}
