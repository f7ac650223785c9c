//! The one-dimensional transforms of F(4, 3), on 16 channels at a time.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, <https://arxiv.org/abs/1509.09308>,
//! section 4.3: interpolation at 0, 1, -1, 2, -2 and infinity. `y = A^T [(G g) * (B^T d)]` for 4 outputs y of 3 taps g on 6
//! inputs d. The gradients are the transposes.

use crate::conv::microkernel::LANES;

/// 16 channels.
#[derive(Clone, Copy)]
pub(super) struct Lanes(pub [f32; LANES]);

impl Lanes {
    pub const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    pub fn load(values: &[f32]) -> Self {
        let mut lanes = Self::ZERO;
        lanes.0.copy_from_slice(&values[..LANES]);
        lanes
    }

    /// Up to 16 values, then zeros.
    #[inline(always)]
    pub fn load_part(values: &[f32]) -> Self {
        let mut lanes = Self::ZERO;
        for (lane, value) in lanes.0.iter_mut().zip(values) {
            *lane = *value;
        }
        lanes
    }

    #[inline(always)]
    pub fn store(self, out: &mut [f32]) {
        out[..LANES].copy_from_slice(&self.0);
    }

    /// The values if the mask is all ones, zeros if it is zero: without a branch.
    #[inline(always)]
    pub fn and(self, mask: u32) -> Self {
        let mut lanes = self;
        for lane in &mut lanes.0 {
            *lane = f32::from_bits(lane.to_bits() & mask);
        }
        lanes
    }
}

/// A one-dimensional transform.
///
/// A trait with a type per transform, for a function that is passed as a value may be called instead of inlined, and then
/// keeps the baseline's instructions.
pub(super) trait Transform<const N: usize, const M: usize> {
    fn apply(line: [f32; N]) -> [f32; M];
}

/// `B^T d`.
pub(super) struct Input;

impl Transform<6, 6> for Input {
    #[inline(always)]
    fn apply(d: [f32; 6]) -> [f32; 6] {
        let (even, odd) = (d[4] - d[2] * 4.0, d[3] - d[1] * 4.0);
        let (even2, odd2) = (d[4] - d[2], (d[3] - d[1]) * 2.0);
        let (first, last) = (d[0] * 4.0 - d[2] * 5.0 + d[4], d[1] * 4.0 - d[3] * 5.0 + d[5]);
        [first, even + odd, even - odd, even2 + odd2, even2 - odd2, last]
    }
}

/// `A^T m`.
pub(super) struct Output;

impl Transform<6, 4> for Output {
    #[inline(always)]
    fn apply(m: [f32; 6]) -> [f32; 4] {
        let (sum, difference) = (m[1] + m[2], m[1] - m[2]);
        let (sum2, difference2) = (m[3] + m[4], m[3] - m[4]);
        [m[0] + sum + sum2, difference + difference2 * 2.0, sum + sum2 * 4.0, difference + difference2 * 8.0 + m[5]]
    }
}

/// `A y`: the transpose of [`Output`].
pub(super) struct OutputGradient;

impl Transform<4, 6> for OutputGradient {
    #[inline(always)]
    fn apply(y: [f32; 4]) -> [f32; 6] {
        let (even, odd) = (y[0] + y[2], y[1] + y[3]);
        let (even2, odd2) = (y[0] + y[2] * 4.0, y[1] * 2.0 + y[3] * 8.0);
        [y[0], even + odd, even - odd, even2 + odd2, even2 - odd2, y[3]]
    }
}

/// `G g`.
pub(super) struct Filter;

impl Transform<3, 6> for Filter {
    #[inline(always)]
    fn apply(g: [f32; 3]) -> [f32; 6] {
        let even = (g[0] + g[2]) * (-1.0 / 6.0);
        let odd = g[1] * (1.0 / 6.0);
        let even2 = g[0] * (1.0 / 24.0) + g[2] * (1.0 / 6.0);
        let odd2 = g[1] * (1.0 / 12.0);
        [g[0] * 0.25, even - odd, even + odd, even2 + odd2, even2 - odd2, g[2]]
    }
}

/// `G^T u`: the transpose of [`Filter`].
pub(super) struct FilterGradient;

impl Transform<6, 3> for FilterGradient {
    #[inline(always)]
    fn apply(u: [f32; 6]) -> [f32; 3] {
        let (sum, difference) = (u[1] + u[2], u[2] - u[1]);
        let (sum2, difference2) = (u[3] + u[4], u[3] - u[4]);
        [
            u[0] * 0.25 - sum * (1.0 / 6.0) + sum2 * (1.0 / 24.0),
            difference * (1.0 / 6.0) + difference2 * (1.0 / 12.0),
            (sum2 - sum) * (1.0 / 6.0) + u[5],
        ]
    }
}

/// Working memory of [`both_ways`]: a square transformed one way, `[x][y]`. Made once, for zeroing it shows.
pub(super) type Half<const N: usize, const M: usize> = [[Lanes; M]; N];

/// Applies a transform to the columns, then to the rows, of an `N x N` square: `M x M` come out.
///
/// `load` is given row and column, `store` the row-major index: nothing but the half-transformed square is kept, which
/// would not fit the registers.
#[inline(always)]
pub(super) fn both_ways<F: Transform<N, M>, const N: usize, const M: usize>(
    load: impl Fn(usize, usize) -> Lanes,
    mut store: impl FnMut(usize, Lanes),
    half: &mut Half<N, M>,
) {
    for (x, half) in half.iter_mut().enumerate() {
        let mut line = [Lanes::ZERO; N];
        for (y, lanes) in line.iter_mut().enumerate() {
            *lanes = load(y, x);
        }
        *half = apply::<F, N, M>(line);
    }
    for y in 0..M {
        let mut row = [Lanes::ZERO; N];
        for (lanes, half) in row.iter_mut().zip(half.iter()) {
            *lanes = half[y];
        }
        for (x, lanes) in apply::<F, N, M>(row).into_iter().enumerate() {
            store(y * M + x, lanes);
        }
    }
}

/// One lane after the other, in one loop: operations on whole [`Lanes`] end up torn into registers of 1, 4 and 8 floats.
#[inline(always)]
fn apply<F: Transform<N, M>, const N: usize, const M: usize>(line: [Lanes; N]) -> [Lanes; M] {
    let mut out = [Lanes::ZERO; M];
    for l in 0..LANES {
        let mut values = [0.0; N];
        for (value, lanes) in values.iter_mut().zip(&line) {
            *value = lanes.0[l];
        }
        for (lanes, value) in out.iter_mut().zip(F::apply(values)) {
            lanes.0[l] = value;
        }
    }
    out
}
