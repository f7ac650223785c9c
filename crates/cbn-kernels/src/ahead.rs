//! Memory that is needed soon, brought nearer while something else is computed.
//!
//! Sums that live in the third-level cache cost a kernel a wait per line; asked for in time they cost an instruction.

/// Floats that will be needed soon; they are never read here, so whoever may change them meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    start: *const f32,
    len: usize,
}

impl Ahead {
    pub(crate) fn of(values: &[f32]) -> Self {
        Self { start: values.as_ptr(), len: values.len() }
    }

    /// As many floats as there are values, right behind them.
    pub(crate) fn behind(values: &[f32]) -> Self {
        Self { start: values.as_ptr().wrapping_add(values.len()), len: values.len() }
    }

    /// A walk over part `i` of `parts` equal ones, in `steps` steps.
    #[inline(always)]
    pub(crate) fn walk(self, i: usize, parts: usize, steps: usize) -> Walk {
        Walk { at: self.start.wrapping_add(self.len * i / parts), step: self.len.div_ceil((parts * steps).max(1)) }
    }
}

/// A place, and how far each step goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    at: *const f32,
    step: usize,
}

impl Walk {
    /// Asks for the cache line here to be brought to the second-level cache, and goes on.
    #[inline(always)]
    pub(crate) fn step(&mut self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: every x86-64 has the instruction; it changes no value and does not fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.cast()) }
        }
        self.at = self.at.wrapping_add(self.step);
    }
}
