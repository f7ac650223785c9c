//! What programs on these kernels ask of their allocator.

/// Lets mimalloc keep freed memory for the next map. By itself it gives memory back to the system a second after it was freed,
/// and faulting fresh pages in costs a training step a third of its processor time.
///
/// Call it first in `main`, in a program whose global allocator is mimalloc 3. The process then holds what it held at its
/// peak. `MIMALLOC_PURGE_DELAY` in the environment, in milliseconds, goes before it.
pub fn keep_freed_memory() {
    /// `mi_option_purge_delay` of mimalloc.h; -1 is never.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: the function stores a number in the allocator's table of options, which exists from the process's start.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) }
}
