//! The inner loop of weight gradients: a product whose left-hand side is read by columns.

use super::microkernel::{LANES, Right, fused_multiply_add, load, store};
use crate::ahead::{Ahead, Walk};
use crate::isa::{Target, per_isa};

per_isa! {
    /// `tile[i][j] (+)= sum_p left[p][i] * panel[p][j]`: the transposed product, for weight gradients.
    ///
    /// `left` comes with its `stride`, `panel` with its `width`. `tile` has rows of `width`; `stride` is at least its number of rows rounded up to [`super::microkernel::ROWS`]. It is added to if
    /// `accumulate`, else overwritten. What is `ahead` is brought to the second-level cache in the meantime.
    pub(crate) fn multiply_transposed(
        left: (&[f32], usize), panel: (&[f32], usize), tile: &mut [f32], accumulate: bool, ahead: [Ahead; 3],
    ) = multiply_transposed_body
}

#[inline(always)]
fn multiply_transposed_body<T: Target>(
    left: (&[f32], usize),
    (panel, width): (&[f32], usize),
    tile: &mut [f32],
    accumulate: bool,
    ahead: [Ahead; 3],
) {
    let right = Right { panel, width, column: 0 };
    match (T::IS_WIDE, width) {
        (true, 64) => transposed_blocks::<T, 6, 4>(left, right, tile, accumulate, ahead),
        (true, 48) => transposed_blocks::<T, 6, 3>(left, right, tile, accumulate, ahead),
        (true, 32) => transposed_blocks::<T, 6, 2>(left, right, tile, accumulate, ahead),
        _ => {
            for column in (0..width).step_by(LANES) {
                let right = Right { column, ..right };
                if T::HAS_FMA {
                    transposed_blocks::<T, 6, 1>(left, right, tile, accumulate, ahead);
                } else {
                    transposed_blocks::<T, 2, 1>(left, right, tile, accumulate, ahead);
                }
            }
        }
    }
}

#[inline(always)]
fn transposed_blocks<T: Target, const R: usize, const V: usize>(
    left: (&[f32], usize),
    right: Right<'_>,
    tile: &mut [f32],
    accumulate: bool,
    ahead: [Ahead; 3],
) {
    let (blocks, depth) = (tile.len().div_ceil(R * right.width), right.panel.len() / right.width);
    for (block, tile) in tile.chunks_mut(R * right.width).enumerate() {
        let walks = ahead.map(|ahead| ahead.walk(block, blocks, depth));
        let sums = transposed_block::<T, R, V>(left, block * R, right, walks);
        store(&sums, right, tile, accumulate);
    }
}

/// As the blocks of rows: a function of its own, with a variable per walk, or the compiler keeps the sums in memory.
#[inline(always)]
fn transposed_block<T: Target, const R: usize, const V: usize>(
    (left, stride): (&[f32], usize),
    first_row: usize,
    right: Right<'_>,
    [mut first, mut second, mut third]: [Walk; 3],
) -> [[[f32; LANES]; V]; R] {
    let mut sums = [[[0.0; LANES]; V]; R];
    for (left, row) in left.chunks_exact(stride).zip(right.panel.chunks_exact(right.width)) {
        let left = &left[first_row..first_row + R];
        let row = load::<V>(row, right.column);
        for r in 0..R {
            fused_multiply_add::<T, V>(&mut sums[r], left[r], &row);
        }
        // The baseline has too few products per step to hide them behind.
        if T::HAS_FMA {
            first.step();
            second.step();
            third.step();
        }
    }
    sums
}
