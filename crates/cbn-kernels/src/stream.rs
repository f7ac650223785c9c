//! Stores that pass the caches by, for outputs too large to be found there again.
//!
//! A store to a line that no cache holds reads the line first; one that passes by does not, and leaves the caches to the
//! inputs.

use crate::out::Out;

/// Outputs from this many floats on are streamed: 32 MiB, what a last-level cache of this class holds.
const MIN_LEN: usize = 8 * 1024 * 1024;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Whether an output is worth streaming: large, and made of rows of whole cache lines.
pub(crate) fn is_worth_it(out: &Out, row_len: usize) -> bool {
    let is_aligned = out.as_ptr().align_offset(LINE) == 0 && row_len.is_multiple_of(LINE / size_of::<f32>());
    cfg!(target_arch = "x86_64") && out.len() >= MIN_LEN && is_aligned
}

/// Streams rows until it is dropped.
pub(crate) struct Stream;

impl Stream {
    /// Copies; whole cache lines pass the caches by.
    #[inline(always)]
    pub(crate) fn copy(&self, values: &[f32], out: &mut Out) {
        assert_eq!(values.len(), out.len(), "as many values as places");
        #[cfg(target_arch = "x86_64")]
        if out.as_ptr().align_offset(LINE) == 0 && out.len().is_multiple_of(4) {
            use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
            for (values, out) in values.chunks_exact(4).zip(out.chunks_exact_mut(4)) {
                // SAFETY: every x86-64 has the instructions; both slices have four floats, and those of `out` start at a
                // multiple of 16 bytes. `Drop` orders the stores before anything that other threads may see.
                unsafe { _mm_stream_ps(out.as_mut_ptr().cast(), _mm_loadu_ps(values.as_ptr())) }
            }
            return;
        }
        out.write_copy_of_slice(values);
    }
}

impl Drop for Stream {
    /// Streamed stores are not ordered with others: waits for them.
    #[inline(always)]
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has the instruction.
        unsafe {
            std::arch::x86_64::_mm_sfence();
        }
    }
}
