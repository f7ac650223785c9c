//! One repetition per line: the side of `cargo xtask bench-peers` that is ours. `server.py` is the other one.
//!
//! A request is a line that names a case; the answer is the repetition's milliseconds, a tab, and what else there is to
//! tell.

use std::io::{BufRead, Result, Write, stdin, stdout};
use std::time::{Duration, Instant};

/// As in the `cbn` command: page faults on fresh feature maps cost more than the arithmetic.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Answers until the input ends.
pub fn serve(mut repetition: impl FnMut(&str) -> (Duration, String)) -> Result<()> {
    // As the `cbn` command does.
    cbn_kernels::keep_freed_memory();
    for request in stdin().lock().lines() {
        let (elapsed, note) = repetition(&request?);
        let mut out = stdout().lock();
        writeln!(out, "{}\t{note}", elapsed.as_secs_f64() * 1e3)?;
        out.flush()?;
    }
    Ok(())
}

/// Runs what is timed.
pub fn timed<T>(run: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = run();
    (start.elapsed(), value)
}

/// The shorter of two runs in a row: an allocator that gave its pages back while the other side had its turn spoils the
/// first, a neighbour on the machine either.
#[allow(dead_code, reason = "what takes seconds is run once")]
pub fn shorter(mut run: impl FnMut() -> Duration) -> Duration {
    run().min(run())
}

/// The process's arguments.
///
/// # Panics
///
/// If there are more or fewer.
#[allow(dead_code, reason = "not every example has arguments")]
pub fn arguments<const N: usize>() -> [String; N] {
    let given: Vec<String> = std::env::args().skip(1).collect();
    given.try_into().unwrap_or_else(|given| panic!("{N} arguments are needed, not {given:?}"))
}

/// The words of a request after the first.
///
/// # Panics
///
/// If there are more or fewer, or one is no number.
#[allow(dead_code, reason = "not every example has numbers in its requests")]
pub fn numbers<const N: usize>(request: &str) -> [usize; N] {
    let words = request.split(' ').skip(1).map(|word| word.parse().expect("a request is a name and numbers"));
    words.collect::<Vec<_>>().try_into().expect("a request has all its numbers")
}
