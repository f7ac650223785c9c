//! Working memory that each thread keeps between calls.
//!
//! A fresh large allocation costs a page fault per 4 KiB, which is more than many kernels cost themselves.

use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of a cache line: a register of 16 floats that starts on one is loaded at once, any other in two steps.
const ALIGNMENT: usize = 64;

/// Runs `work` on `len` floats of unspecified contents, which start on a cache line.
///
/// Calls nest, also when the pool runs another task on this thread in the middle of `work`.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let padded_len = len + ALIGNMENT / size_of::<f32>();
    let mut buffer = FREE.with_borrow_mut(|free| take_best(free, padded_len));
    if buffer.len() < padded_len {
        buffer.resize(padded_len, 0.0);
    }
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let result = work(&mut buffer[start..start + len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

/// The smallest buffer that is long enough, else the longest, which then grows.
fn take_best(free: &mut Vec<Vec<f32>>, len: usize) -> Vec<f32> {
    let enough = (0..free.len()).filter(|&i| free[i].len() >= len).min_by_key(|&i| free[i].len());
    let best = enough.or_else(|| (0..free.len()).max_by_key(|&i| free[i].len()));
    best.map(|i| free.swap_remove(i)).unwrap_or_default()
}
