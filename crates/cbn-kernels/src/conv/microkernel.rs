//! The two inner loops that all convolutions end in: products of small dense blocks, in registers.
//!
//! The right-hand side is always a *panel*: rows of `width` floats, `width` one of 16, 32, 48, 64, contiguous.
//! With AVX-512 a block of 6 rows by 64 columns is 24 accumulators; with AVX2 6 by 16 is 12; with the 16 SSE registers
//! of the baseline 2 by 16 is 8. Each output is summed in one order, whatever block it falls into.

use crate::isa::{Target, per_isa};

/// Floats in one AVX-512 register; the unit of every padded channel count.
pub(crate) const LANES: usize = 16;
/// Columns of a full panel.
pub(crate) const PANEL: usize = 64;
/// Rows of a block.
pub(crate) const ROWS: usize = 6;

per_isa! {
    /// `tile[i][j] (+)= sum_k rows[i][skip + k] * panel[k][j]`, where `k` runs over the panel's rows.
    ///
    /// `tile` has `rows.len()` rows of `width`. It is added to if `accumulate`, else overwritten.
    pub(crate) fn multiply_rows(
        rows: &[&[f32]], skip: usize, panel: &[f32], width: usize, tile: &mut [f32], accumulate: bool,
    ) = multiply_rows_body
}

per_isa! {
    /// `tile[i][j] += sum_p left[p * stride + i] * panel[p][j]`: the transposed product, for weight gradients.
    ///
    /// `tile` has rows of `width`; `stride` is at least its number of rows rounded up to [`ROWS`].
    pub(crate) fn multiply_transposed(
        left: &[f32], stride: usize, panel: &[f32], width: usize, tile: &mut [f32],
    ) = multiply_transposed_body
}

#[inline(always)]
fn multiply_rows_body<T: Target>(
    rows: &[&[f32]],
    skip: usize,
    panel: &[f32],
    width: usize,
    tile: &mut [f32],
    accumulate: bool,
) {
    match (T::IS_WIDE, width) {
        (true, 64) => row_blocks::<T, 6, 4>(rows, skip, panel, width, 0, tile, accumulate),
        (true, 48) => row_blocks::<T, 6, 3>(rows, skip, panel, width, 0, tile, accumulate),
        (true, 32) => row_blocks::<T, 6, 2>(rows, skip, panel, width, 0, tile, accumulate),
        _ => {
            for column in (0..width).step_by(LANES) {
                if T::HAS_FMA {
                    row_blocks::<T, 6, 1>(rows, skip, panel, width, column, tile, accumulate);
                } else {
                    row_blocks::<T, 2, 1>(rows, skip, panel, width, column, tile, accumulate);
                }
            }
        }
    }
}

/// All rows against columns `column .. column + V * LANES`, R rows at a time.
#[inline(always)]
fn row_blocks<T: Target, const R: usize, const V: usize>(
    rows: &[&[f32]],
    skip: usize,
    panel: &[f32],
    width: usize,
    column: usize,
    tile: &mut [f32],
    accumulate: bool,
) {
    let depth = panel.len() / width;
    for (block, tile) in rows.chunks(R).zip(tile.chunks_mut(R * width)) {
        // A short last block repeats its last row; the repeats are not stored.
        let left: [&[f32]; R] = std::array::from_fn(|r| &block[r.min(block.len() - 1)][skip..skip + depth]);
        let sums = row_block::<T, R, V>(left, panel, width, column);
        store(&sums, block.len(), width, column, tile, accumulate);
    }
}

#[inline(always)]
fn row_block<T: Target, const R: usize, const V: usize>(
    left: [&[f32]; R],
    panel: &[f32],
    width: usize,
    column: usize,
) -> [[[f32; LANES]; V]; R] {
    let mut sums = [[[0.0; LANES]; V]; R];
    let depth = left[0].len();
    for (k, right) in panel.chunks_exact(width).take(depth).enumerate() {
        let right = load::<V>(right, column);
        for r in 0..R {
            fused_multiply_add::<T, V>(&mut sums[r], left[r][k], &right);
        }
    }
    sums
}

#[inline(always)]
fn multiply_transposed_body<T: Target>(left: &[f32], stride: usize, panel: &[f32], width: usize, tile: &mut [f32]) {
    match (T::IS_WIDE, width) {
        (true, 64) => transposed_blocks::<T, 6, 4>(left, stride, panel, width, 0, tile),
        (true, 48) => transposed_blocks::<T, 6, 3>(left, stride, panel, width, 0, tile),
        (true, 32) => transposed_blocks::<T, 6, 2>(left, stride, panel, width, 0, tile),
        _ => {
            for column in (0..width).step_by(LANES) {
                if T::HAS_FMA {
                    transposed_blocks::<T, 6, 1>(left, stride, panel, width, column, tile);
                } else {
                    transposed_blocks::<T, 2, 1>(left, stride, panel, width, column, tile);
                }
            }
        }
    }
}

#[inline(always)]
fn transposed_blocks<T: Target, const R: usize, const V: usize>(
    left: &[f32],
    stride: usize,
    panel: &[f32],
    width: usize,
    column: usize,
    tile: &mut [f32],
) {
    for (block, tile) in tile.chunks_mut(R * width).enumerate() {
        let mut sums = [[[0.0; LANES]; V]; R];
        for (left, right) in left.chunks_exact(stride).zip(panel.chunks_exact(width)) {
            let left = &left[block * R..block * R + R];
            let right = load::<V>(right, column);
            for r in 0..R {
                fused_multiply_add::<T, V>(&mut sums[r], left[r], &right);
            }
        }
        store(&sums, tile.len() / width, width, column, tile, true);
    }
}

#[inline(always)]
fn load<const V: usize>(row: &[f32], column: usize) -> [[f32; LANES]; V] {
    let row = &row[column..column + V * LANES];
    let mut values = [[0.0; LANES]; V];
    for v in 0..V {
        values[v].copy_from_slice(&row[v * LANES..(v + 1) * LANES]);
    }
    values
}

#[inline(always)]
fn fused_multiply_add<T: Target, const V: usize>(sums: &mut [[f32; LANES]; V], left: f32, right: &[[f32; LANES]; V]) {
    for v in 0..V {
        for l in 0..LANES {
            sums[v][l] = T::mul_add(left, right[v][l], sums[v][l]);
        }
    }
}

#[inline(always)]
fn store<const R: usize, const V: usize>(
    sums: &[[[f32; LANES]; V]; R],
    valid_rows: usize,
    width: usize,
    column: usize,
    tile: &mut [f32],
    accumulate: bool,
) {
    for (sums, tile) in sums.iter().zip(tile.chunks_exact_mut(width)).take(valid_rows) {
        let tile = &mut tile[column..column + V * LANES];
        for (sums, tile) in sums.iter().zip(tile.chunks_exact_mut(LANES)) {
            for (sum, out) in sums.iter().zip(tile) {
                *out = if accumulate { *out + sum } else { *sum };
            }
        }
    }
}

/// Columns of the panel that starts at output channel `first` of `channels`: a multiple of [`LANES`].
pub(crate) fn panel_width(channels: usize, first: usize) -> usize {
    (channels - first).min(PANEL).next_multiple_of(LANES)
}

/// Floats of all panels of `depth` rows: full panels, then the narrower last one.
pub(crate) fn panels_len(channels: usize, depth: usize) -> usize {
    channels.next_multiple_of(LANES) * depth
}
