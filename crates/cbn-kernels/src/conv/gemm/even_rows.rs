//! The inner loop of pointwise convolutions: rows that lie at one distance, each block finished while it is in the first-level cache.

use std::ops::Range;

use super::rows::Even;
use crate::ahead::Ahead;
use crate::conv::epilogue::Epilogue;
use crate::conv::microkernel::{LANES, PANEL, Product, Right, even_rows, multiply, row_block, store};
use crate::isa::{Target, per_isa, prefetch};
use crate::out::Out;
use crate::stream::Stream;

/// Blocks that take as long as memory does.
const AHEAD: usize = 3;

/// What is in no near cache, and is therefore asked for in time.
#[derive(Clone, Copy)]
pub(super) struct Far {
    /// The rows.
    pub rows: bool,
    /// The panel's next part, which lies behind it.
    pub panel: bool,
}

per_isa! {
    /// `tile[i][j] (+)= sum_k rows[i][k] * panel[k][j]`, where `k` runs over the panel's rows. With an output, finishes each block for it.
    ///
    /// `tile` is added to if `accumulate`, else overwritten.
    pub(super) fn multiply_even_rows(
        rows: (Even<'_>, Far), panel: (&[f32], usize), tile: &mut [f32], accumulate: bool, output: Option<(Finish<'_>, &mut Out)>,
    ) = multiply_even_rows_body
}

/// Where the rows of a tile go: to neighbouring pixels.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub epilogue: Epilogue<'a>,
    /// Whether they are written past the caches.
    pub is_streamed: bool,
    /// Of the first row.
    pub pixel: usize,
    /// The first, how many, of all.
    pub channels: (usize, usize, usize),
}

impl Finish<'_> {
    /// Asks for what will be added to some rows of a tile of `count`, `registers` from `column` on. Behind the last row come those of
    /// the next panel, behind the last panel the next pixels.
    #[inline(always)]
    fn ask_for_residual(&self, rows: Range<usize>, count: usize, column: usize, registers: usize) {
        let Some(residual) = self.epilogue.residual else { return };
        let (first, _, all) = self.channels;
        for row in rows {
            let (row, first) = if row < count {
                (row, first)
            } else if first + PANEL < all {
                (row - count, first + PANEL)
            } else {
                (row, 0)
            };
            let start = (self.pixel + row) * all + first + column;
            (0..registers).for_each(|register| prefetch(residual, start + register * LANES));
        }
    }

    /// Finishes `values` of the tile's row `row` from `column` on; the tile may be wider than there are channels.
    #[inline(always)]
    fn write<T: Target>(&self, values: &[f32], row: usize, column: usize, (stream, y): (Option<&Stream>, &mut Out)) {
        let (first, count, all) = self.channels;
        let start = (self.pixel + row) * all + first + column;
        if column + values.len() <= count {
            // As many as there are registers: no loop over them is left.
            let out = (stream, &mut y[start..start + values.len()]);
            self.epilogue.finish::<T>(values, first + column, start, out);
        } else if column < count {
            let out = (stream, &mut y[start..start + count - column]);
            self.epilogue.finish::<T>(&values[..count - column], first + column, start, out);
        }
    }
}

/// Of [`multiply_even_rows`].
struct EvenRows<'a> {
    rows: Even<'a>,
    far: Far,
    accumulate: bool,
    output: Option<(Finish<'a>, &'a mut Out)>,
}

#[inline(always)]
fn multiply_even_rows_body<T: Target>(
    (rows, far): (Even<'_>, Far),
    panel: (&[f32], usize),
    tile: &mut [f32],
    accumulate: bool,
    output: Option<(Finish<'_>, &mut Out)>,
) {
    multiply::<T>(&mut EvenRows { rows, far, accumulate, output }, panel, tile);
}

impl Product for EvenRows<'_> {
    #[inline(always)]
    fn run<T: Target, const R: usize, const V: usize>(&mut self, right: Right<'_>, tile: &mut [f32]) {
        let depth = right.panel.len() / right.width;
        let count = tile.len() / right.width;
        let blocks = count.div_ceil(R);
        let stream = self.output.as_ref().and_then(|(finish, _)| finish.is_streamed.then_some(Stream));
        // Nobody reads a tile that is written out: all blocks take its start, which stays near.
        let is_read = self.accumulate || self.output.is_none();
        for block in 0..blocks {
            let start = if is_read { block * R * right.width } else { 0 };
            let tile = &mut tile[start..start + R.min(count - block * R) * right.width];
            if right.column == 0 {
                self.ask_for_inputs([block, blocks], R, right);
            }
            if let Some((finish, _)) = &self.output {
                finish.ask_for_residual((block + AHEAD) * R..(block + AHEAD + 1) * R, count, right.column, V);
            }
            let left = even_rows::<R>(self.rows.source, self.rows.stride, [block * R, count], depth);
            let sums = row_block::<T, R, V>(left, right);
            store(&sums, right, tile, self.accumulate);
            if let Some((finish, y)) = &mut self.output {
                for (r, sums) in tile.chunks_exact(right.width).enumerate() {
                    let sums = &sums[right.column..right.column + V * LANES];
                    finish.write::<T>(sums, block * R + r, right.column, (stream.as_ref(), y));
                }
            }
        }
    }
}

impl EvenRows<'_> {
    /// Asks for what is far: rows two blocks ahead, since one takes less time than memory, and a share of the panel's next part.
    #[inline(always)]
    fn ask_for_inputs(&self, [block, blocks]: [usize; 2], block_rows: usize, right: Right<'_>) {
        if self.far.rows {
            let depth = right.panel.len() / right.width;
            for row in (block + 2) * block_rows..(block + 3) * block_rows {
                (0..depth).step_by(LANES).for_each(|at| prefetch(self.rows.source, row * self.rows.stride + at));
            }
        }
        if self.far.panel {
            let lines = (right.panel.len() / LANES).div_ceil(blocks);
            let mut walk = Ahead::behind(right.panel).walk(block, blocks, lines);
            (0..lines).for_each(|_| walk.step());
        }
    }
}
