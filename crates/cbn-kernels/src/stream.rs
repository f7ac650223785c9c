//! Stores that pass the caches by, for outputs too large to be found there again.
//!
//! A store to a line that no cache holds reads the line first; one that passes by does not, and leaves the caches to the
//! inputs.

use crate::isa::Target;
use crate::out::Out;

/// Outputs from this many floats on are streamed: 32 MiB, what a last-level cache of this class holds.
const MIN_LEN: usize = 8 * 1024 * 1024;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Floats of a cache line.
const LANES: usize = LINE / size_of::<f32>();

/// Whether an output is worth streaming: large, and made of rows of whole cache lines.
pub(crate) fn is_worth_it(out: &Out, row_len: usize) -> bool {
    let is_aligned = out.as_ptr().align_offset(LINE) == 0 && row_len.is_multiple_of(LANES);
    cfg!(target_arch = "x86_64") && out.len() >= MIN_LEN && is_aligned
}

/// Streams rows until it is dropped.
pub(crate) struct Stream;

impl Stream {
    /// Whether `out` consists of whole cache lines.
    #[inline(always)]
    pub(crate) fn takes(out: &Out) -> bool {
        out.as_ptr().align_offset(LINE) == 0 && out.len().is_multiple_of(LANES)
    }

    /// Stores to a whole cache line, past the caches.
    #[inline(always)]
    pub(crate) fn store<T: Target>(&self, values: &[f32; LANES], out: &mut Out) {
        assert!(out.len() == LANES && out.as_ptr().align_offset(LINE) == 0, "a whole cache line");
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps, _mm512_loadu_ps, _mm512_stream_ps};
            let (from, to) = (values.as_ptr(), out.as_mut_ptr().cast::<f32>());
            // SAFETY: both have 16 floats, those of `out` start on a cache line; `IS_WIDE` is the instruction set of the wide
            // ones, and every x86-64 has the others. `Drop` orders the stores before anything that other threads may see.
            unsafe {
                if T::IS_WIDE {
                    _mm512_stream_ps(to, _mm512_loadu_ps(from));
                } else {
                    (0..LANES).step_by(4).for_each(|at| _mm_stream_ps(to.add(at), _mm_loadu_ps(from.add(at))));
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
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
