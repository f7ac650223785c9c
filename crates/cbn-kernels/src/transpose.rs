//! Transposition of 16 x 16 floats, in registers where they fit.

use crate::isa::Target;

/// Rows, and columns.
pub(crate) const SIDE: usize = 16;

/// Calls `store` with each column of a matrix, whose rows are the first 16 floats that `row` gives. Where registers are not wide, a loop over
/// what is needed of the columns is faster.
#[inline(always)]
pub(crate) fn transpose<'a, T: Target>(row: impl Fn(usize) -> &'a [f32], mut store: impl FnMut(usize, &[f32; SIDE])) {
    #[cfg(target_arch = "x86_64")]
    if T::IS_WIDE {
        return transpose_wide(row, store);
    }
    let rows: [&[f32]; SIDE] = std::array::from_fn(|i| &row(i)[..SIDE]);
    for column in 0..SIDE {
        store(column, &rows.map(|row| row[column]));
    }
}

/// Four times, the registers of the first half are shuffled with those of the second. The compiler does not find this by itself: from
/// loops it makes 16 loads and stores for each register.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose_wide<'a>(row: impl Fn(usize) -> &'a [f32], mut store: impl FnMut(usize, &[f32; SIDE])) {
    use std::arch::x86_64::{
        _mm512_loadu_ps, _mm512_permutex2var_ps, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    const HALF: usize = SIDE / 2;
    // SAFETY: only code for the instruction set with wide registers comes here; all loads and stores are of slices and arrays of 16 floats.
    unsafe {
        let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        let mut rows = [_mm512_setzero_ps(); SIDE];
        for (i, register) in rows.iter_mut().enumerate() {
            *register = _mm512_loadu_ps(row(i)[..SIDE].as_ptr());
        }
        for _ in 0..SIDE.ilog2() {
            let before = rows;
            for i in 0..HALF {
                rows[2 * i] = _mm512_permutex2var_ps(before[i], first, before[i + HALF]);
                rows[2 * i + 1] = _mm512_permutex2var_ps(before[i], second, before[i + HALF]);
            }
        }
        for (i, column) in rows.into_iter().enumerate() {
            let mut values = [0.0; SIDE];
            _mm512_storeu_ps(values.as_mut_ptr(), column);
            store(i, &values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Kernels, per_isa};

    per_isa! {
        fn transpose_to(from: &[f32], stride: usize, to: &mut [f32]) = transpose_to_body
    }

    #[inline(always)]
    fn transpose_to_body<T: Target>(from: &[f32], stride: usize, to: &mut [f32]) {
        transpose::<T>(
            |row| &from[row * stride..],
            |column, values| to[column * SIDE..][..SIDE].copy_from_slice(values),
        );
    }

    #[test]
    fn columns_become_rows() {
        let from: Vec<f32> = (0..17 * SIDE).map(|value| value as f32).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut to = [0.0; SIDE * SIDE];
            transpose_to(Kernels::new(isa), &from, 17, &mut to);
            assert!((0..SIDE * SIDE).all(|i| to[i] == from[i % SIDE * 17 + i / SIDE]), "{isa:?}");
        }
    }
}
