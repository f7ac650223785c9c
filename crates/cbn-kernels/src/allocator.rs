//! What programs on these kernels ask of their allocator.

/// `mi_option_purge_delay` of mimalloc.h.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Lets mimalloc keep freed memory for the next map. By itself it gives memory back to the system a second after it was freed,
/// and faulting fresh pages in costs a training step a third of its processor time.
///
/// Call it first in `main`, in a program whose global allocator is mimalloc 3. The process then holds what it held at its
/// peak. `MIMALLOC_PURGE_DELAY` in the environment, in milliseconds, goes before it.
pub fn keep_freed_memory() {
    // -1 is never.
    // SAFETY: the function stores a number in the allocator's table of options, which exists from the process's start.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) }
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    /// The option has a number only in mimalloc.h, so an update of mimalloc could give it to another: before the call it must
    /// read as what mimalloc documents for the delay, 1000 ms in version 3, and after it as never.
    #[test]
    fn the_option_is_the_delay_of_giving_memory_back() {
        // SAFETY: the function reads a number of the allocator's table of options.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_some() {
            eprintln!("skipped: MIMALLOC_PURGE_DELAY is set");
            return;
        }
        assert_eq!(delay(), 1000);
        keep_freed_memory();
        assert_eq!(delay(), -1);
    }
}
