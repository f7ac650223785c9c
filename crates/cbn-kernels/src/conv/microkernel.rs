//! The inner loops that convolutions end in: products of small dense blocks, in registers. Weight gradients end in
//! [`super::transposed`].
//!
//! The right-hand side is always a *panel*: rows of `width` floats, `width` one of 16, 32, 48, 64, contiguous.
//! With AVX-512 a block of 6 rows by 64 columns is 24 accumulators; with AVX2 6 by 16 is 12; with the 16 SSE registers
//! of the baseline 2 by 16 is 8. Each output is summed in one order, whatever block it falls into.

use crate::ahead::{Ahead, Walk};
use crate::isa::{Target, per_isa, prefetch};

/// Floats in one AVX-512 register; the unit of every padded channel count.
pub(crate) const LANES: usize = 16;
/// Columns of a full panel.
pub(crate) const PANEL: usize = 64;
/// Rows of a block.
pub(crate) const ROWS: usize = 6;

per_isa! {
    /// `tile[i][j] (+)= sum_k rows[i][skip + k] * panel[k][j]`, where `k` runs over the panel's rows.
    ///
    /// `tile` has `rows.len()` rows of `width`. It is added to if `accumulate`, else overwritten. If the rows `are_far`, that is in
    /// no near cache, they are asked for in time.
    pub(crate) fn multiply_rows(
        rows: (&[&[f32]], bool), skip: usize, panel: (&[f32], usize), tile: &mut [f32], accumulate: bool,
    ) = multiply_rows_body
}

per_isa! {
    /// `tile[i][j] = sum_k rows[i][k] * panel[k][j]`: as [`multiply_rows`] for near rows that lie `stride` apart. What is `ahead` is brought to the
    /// second-level cache in the meantime. If `goes_on`, the sums start from what is in the tile: the bits are those of one product with all rows
    /// of both panels.
    pub(crate) fn multiply_near_rows(
        rows: (&[f32], usize), panel: (&[f32], usize), tile: &mut [f32], goes_on: bool, ahead: [Ahead; 2],
    ) = multiply_near_rows_body
}

per_isa! {
    /// `tile[i][j] = sum_s sum_k rows[s][i][k] * panel[s * len + k][j]`: as [`multiply_rows`] for short rows in several segments of
    /// `len` each, `rows` being `[segment][row]`.
    pub(crate) fn multiply_short_rows(rows: &[&[f32]], len: usize, panel: (&[f32], usize), tile: &mut [f32])
        = multiply_short_rows_body
}

/// The columns of a panel that one pass computes: V registers from `column` on.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub panel: &'a [f32],
    pub width: usize,
    pub column: usize,
}

/// A product of rows with a panel, R rows and V registers of columns at a time.
pub(super) trait Product {
    /// Computes the columns `right` of `tile`.
    fn run<T: Target, const R: usize, const V: usize>(&mut self, right: Right<'_>, tile: &mut [f32]);
}

/// A product with blocks that fit the panel and the registers.
#[inline(always)]
pub(super) fn multiply<T: Target>(product: &mut impl Product, (panel, width): (&[f32], usize), tile: &mut [f32]) {
    let right = Right { panel, width, column: 0 };
    match (T::IS_WIDE, width) {
        (true, 64) => product.run::<T, 6, 4>(right, tile),
        (true, 48) => product.run::<T, 6, 3>(right, tile),
        (true, 32) => product.run::<T, 6, 2>(right, tile),
        // Six sums would wait for each other.
        (true, 16) => product.run::<T, 12, 1>(right, tile),
        _ => {
            for column in (0..width).step_by(LANES) {
                let right = Right { column, ..right };
                if T::HAS_FMA {
                    product.run::<T, 6, 1>(right, tile);
                } else {
                    product.run::<T, 2, 1>(right, tile);
                }
            }
        }
    }
}

/// Of [`multiply_rows`].
struct SlicedRows<'a> {
    rows: &'a [&'a [f32]],
    skip: usize,
    are_far: bool,
    accumulate: bool,
}

#[inline(always)]
fn multiply_rows_body<T: Target>(
    (rows, are_far): (&[&[f32]], bool),
    skip: usize,
    panel: (&[f32], usize),
    tile: &mut [f32],
    accumulate: bool,
) {
    multiply::<T>(&mut SlicedRows { rows, skip, are_far, accumulate }, panel, tile);
}

impl Product for SlicedRows<'_> {
    #[inline(always)]
    fn run<T: Target, const R: usize, const V: usize>(&mut self, right: Right<'_>, tile: &mut [f32]) {
        let Self { rows, skip, .. } = *self;
        let depth = right.panel.len() / right.width;
        for (i, (block, tile)) in rows.chunks(R).zip(tile.chunks_mut(R * right.width)).enumerate() {
            if self.are_far && right.column == 0 {
                for row in rows.iter().skip((i + 1) * R).take(R) {
                    (skip..skip + depth).step_by(LANES).for_each(|at| prefetch(row, at));
                }
            }
            // A short last block repeats its last row; the repeats are not stored.
            let left: [&[f32]; R] = std::array::from_fn(|r| &block[r.min(block.len() - 1)][skip..skip + depth]);
            let sums = row_block::<T, R, V>(left, right);
            store(&sums, right, tile, self.accumulate);
        }
    }
}

/// The R rows from `first` on. A short last block repeats its last row; the repeats are not stored.
#[inline(always)]
pub(super) fn even_rows<const R: usize>(
    rows: &[f32],
    stride: usize,
    [first, count]: [usize; 2],
    depth: usize,
) -> [&[f32]; R] {
    std::array::from_fn(|r| &rows[(first + r).min(count - 1) * stride..][..depth])
}

/// Of [`multiply_near_rows`].
struct NearRows<'a> {
    rows: &'a [f32],
    stride: usize,
    goes_on: bool,
    ahead: [Ahead; 2],
}

#[inline(always)]
fn multiply_near_rows_body<T: Target>(
    (rows, stride): (&[f32], usize),
    panel: (&[f32], usize),
    tile: &mut [f32],
    goes_on: bool,
    ahead: [Ahead; 2],
) {
    multiply::<T>(&mut NearRows { rows, stride, goes_on, ahead }, panel, tile);
}

impl Product for NearRows<'_> {
    #[inline(always)]
    fn run<T: Target, const R: usize, const V: usize>(&mut self, right: Right<'_>, tile: &mut [f32]) {
        let depth = right.panel.len() / right.width;
        let count = tile.len() / right.width;
        let blocks = count.div_ceil(R);
        for (block, tile) in tile.chunks_mut(R * right.width).enumerate() {
            let left = even_rows::<R>(self.rows, self.stride, [block * R, count], depth);
            let walks = self.ahead.map(|ahead| ahead.walk(block, blocks, depth));
            // Two loops: where one begins with either, the compiler keeps the sums in memory first.
            let sums = if self.goes_on {
                near_row_block::<T, R, V>(stored(tile, right), left, right, walks)
            } else {
                near_row_block::<T, R, V>([[[0.0; LANES]; V]; R], left, right, walks)
            };
            store(&sums, right, tile, false);
        }
    }
}

/// [`row_block`] with walks, as [`transposed_block`], added to `sums`.
#[inline(always)]
fn near_row_block<T: Target, const R: usize, const V: usize>(
    mut sums: [[[f32; LANES]; V]; R],
    left: [&[f32]; R],
    right: Right<'_>,
    [mut first, mut second]: [Walk; 2],
) -> [[[f32; LANES]; V]; R] {
    let depth = left[0].len();
    for (k, row) in right.panel.chunks_exact(right.width).take(depth).enumerate() {
        let row = load::<V>(row, right.column);
        for r in 0..R {
            fused_multiply_add::<T, V>(&mut sums[r], left[r][k], &row);
        }
        if T::HAS_FMA {
            first.step();
            second.step();
        }
    }
    sums
}

/// Of [`multiply_short_rows`].
struct ShortRows<'a> {
    rows: &'a [&'a [f32]],
    len: usize,
}

#[inline(always)]
fn multiply_short_rows_body<T: Target>(rows: &[&[f32]], len: usize, panel: (&[f32], usize), tile: &mut [f32]) {
    multiply::<T>(&mut ShortRows { rows, len }, panel, tile);
}

impl Product for ShortRows<'_> {
    #[inline(always)]
    fn run<T: Target, const R: usize, const V: usize>(&mut self, right: Right<'_>, tile: &mut [f32]) {
        let count = tile.len() / right.width;
        for (i, tile) in tile.chunks_mut(R * right.width).enumerate() {
            let sums = short_row_block::<T, R, V>(self.rows, [i * R, count], self.len, right);
            store(&sums, right, tile, false);
        }
    }
}

#[inline(always)]
fn short_row_block<T: Target, const R: usize, const V: usize>(
    rows: &[&[f32]],
    [first, count]: [usize; 2],
    len: usize,
    right: Right<'_>,
) -> [[[f32; LANES]; V]; R] {
    let mut sums = [[[0.0; LANES]; V]; R];
    for (rows, panel) in rows.chunks_exact(count).zip(right.panel.chunks_exact(len * right.width)) {
        let left: [&[f32]; R] = std::array::from_fn(|r| &rows[(first + r).min(count - 1)][..len]);
        for (k, row) in panel.chunks_exact(right.width).enumerate() {
            let row = load::<V>(row, right.column);
            for r in 0..R {
                fused_multiply_add::<T, V>(&mut sums[r], left[r][k], &row);
            }
        }
    }
    sums
}

/// The loop that the convolutions spend their time in. Nothing but products: a branch makes the compiler keep the sums in
/// memory, which is three times slower.
#[inline(always)]
pub(super) fn row_block<T: Target, const R: usize, const V: usize>(
    left: [&[f32]; R],
    right: Right<'_>,
) -> [[[f32; LANES]; V]; R] {
    let mut sums = [[[0.0; LANES]; V]; R];
    let depth = left[0].len();
    for (k, row) in right.panel.chunks_exact(right.width).take(depth).enumerate() {
        let row = load::<V>(row, right.column);
        for r in 0..R {
            fused_multiply_add::<T, V>(&mut sums[r], left[r][k], &row);
        }
    }
    sums
}

#[inline(always)]
pub(super) fn load<const V: usize>(row: &[f32], column: usize) -> [[f32; LANES]; V] {
    let row = &row[column..column + V * LANES];
    let mut values = [[0.0; LANES]; V];
    for v in 0..V {
        values[v].copy_from_slice(&row[v * LANES..(v + 1) * LANES]);
    }
    values
}

#[inline(always)]
pub(super) fn fused_multiply_add<T: Target, const V: usize>(
    sums: &mut [[f32; LANES]; V],
    left: f32,
    right: &[[f32; LANES]; V],
) {
    for v in 0..V {
        for l in 0..LANES {
            sums[v][l] = T::mul_add(left, right[v][l], sums[v][l]);
        }
    }
}

/// What [`store`] stored.
#[inline(always)]
fn stored<const R: usize, const V: usize>(tile: &[f32], right: Right<'_>) -> [[[f32; LANES]; V]; R] {
    let mut sums = [[[0.0; LANES]; V]; R];
    for (sums, tile) in sums.iter_mut().zip(tile.chunks_exact(right.width)) {
        *sums = load::<V>(tile, right.column);
    }
    sums
}

#[inline(always)]
pub(super) fn store<const R: usize, const V: usize>(
    sums: &[[[f32; LANES]; V]; R],
    right: Right<'_>,
    tile: &mut [f32],
    accumulate: bool,
) {
    // As many rows as the tile has: the last block may be short.
    for (sums, tile) in sums.iter().zip(tile.chunks_exact_mut(right.width)) {
        let tile = &mut tile[right.column..right.column + V * LANES];
        for (sums, tile) in sums.iter().zip(tile.chunks_exact_mut(LANES)) {
            if accumulate {
                for (sum, out) in sums.iter().zip(tile) {
                    *out += sum;
                }
            } else {
                tile.copy_from_slice(sums);
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
