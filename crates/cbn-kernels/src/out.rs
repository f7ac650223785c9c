//! Memory for results that a kernel writes in full. It is not zeroed first, which costs a large map a pass on one thread.

use std::mem::MaybeUninit;

/// A result's memory: of unspecified contents before, written in full afterwards.
pub(crate) type Out = [MaybeUninit<f32>];

/// A new vector that `write` fills.
///
/// # Safety
///
/// `write` writes every element.
pub(crate) unsafe fn filled(len: usize, write: impl FnOnce(&mut Out)) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least that, and the caller's `write` has written every element.
    unsafe { values.set_len(len) }
    values
}

/// The memory of values, to be written over. Kernels store what they computed and nothing else.
pub(crate) fn over(values: &mut [f32]) -> &mut Out {
    // SAFETY: the layouts are the same, and nothing in this crate stores an uninitialised value to an `Out`.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut Out) }
}

/// Zeros everywhere.
pub(crate) fn zero(out: &mut Out) {
    out.fill(MaybeUninit::new(0.0));
}
