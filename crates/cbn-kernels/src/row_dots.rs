//! Dot products of rows.

use rayon::prelude::*;

use crate::isa::{Isa, Kernels, Target, per_isa};

/// Products summed in `f32`, sixteen sums side by side: each is of 16 terms.
const BLOCK: usize = 256;
const LANES: usize = 16;

/// The dot product of each row of `b`, `[rows, len]`, with its row of `a`, `[groups, len]`, where row `r` belongs to group
/// `r / (rows / groups)`.
///
/// # Panics
///
/// If the groups do not divide the rows, or a length does not fit.
pub fn row_dots(a: &[f32], b: &[f32], groups: usize, rows: usize) -> Vec<f32> {
    assert!(groups > 0 && rows.is_multiple_of(groups), "{groups} groups divide {rows} rows");
    assert_eq!(a.len() * (rows / groups), b.len(), "rows of both sides have one length");
    let len = a.len() / groups;
    let kernels = Kernels::new(Isa::detect());
    let mut dots = vec![0.0; rows];
    dots.par_iter_mut().enumerate().with_min_len((1 << 14) / (len + 1) + 1).for_each(|(row, out)| {
        let group = row / (rows / groups);
        let mut sum = 0.0;
        dot(kernels, &a[group * len..][..len], &b[row * len..][..len], &mut sum);
        *out = sum as f32;
    });
    dots
}

per_isa! {
    /// The dot product of two vectors.
    pub(crate) fn dot(a: &[f32], b: &[f32], out: &mut f64) = dot_body
}

#[inline(always)]
fn dot_body<T: Target>(a: &[f32], b: &[f32], out: &mut f64) {
    let mut total = 0.0;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut sums = [0.0_f32; LANES];
        let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        for (a, b) in a_lanes.remainder().iter().zip(b_lanes.remainder()) {
            total += f64::from(*a) * f64::from(*b);
        }
        for (a, b) in a_lanes.zip(b_lanes) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum = T::mul_add(*a, *b, *sum);
            }
        }
        total += sums.iter().map(|sum| f64::from(*sum)).sum::<f64>();
    }
    *out = total;
}
