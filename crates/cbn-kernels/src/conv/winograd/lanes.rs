//! Sixteen channels at a time, and two-dimensional transforms of them.

use std::marker::PhantomData;

use super::transforms::Transform;
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

/// A transform of a rectangle of N x P.
pub(super) trait Transform2d<const N: usize, const P: usize> {
    /// Working memory. Made once, for zeroing it shows.
    type Half;
    const EMPTY: Self::Half;

    /// `load` is given row and column, `store` an index.
    fn apply(load: impl Fn(usize, usize) -> Lanes, store: impl FnMut(usize, Lanes), half: &mut Self::Half);
}

/// [`both_ways`], to M x Q.
pub(super) struct Separable<V, H, const M: usize, const Q: usize>(PhantomData<(V, H)>);

/// The same both ways.
pub(super) type Square<F, const M: usize> = Separable<F, F, M, M>;

impl<V, H, const N: usize, const M: usize, const P: usize, const Q: usize> Transform2d<N, P> for Separable<V, H, M, Q>
where
    V: Transform<N, M>,
    H: Transform<P, Q>,
{
    type Half = Half<P, M>;
    const EMPTY: Self::Half = [[Lanes::ZERO; M]; P];

    #[inline(always)]
    fn apply(load: impl Fn(usize, usize) -> Lanes, store: impl FnMut(usize, Lanes), half: &mut Self::Half) {
        both_ways::<V, H, N, M, P, Q>(load, store, half);
    }
}

/// Working memory of [`both_ways`]: N columns transformed to M each, `[x][y]`.
pub(super) type Half<const N: usize, const M: usize> = [[Lanes; M]; N];

/// Applies `V` to the columns, then `H` to the rows, of a rectangle of `N x P`: `M x Q` come out.
///
/// `load` is given row and column, `store` the row-major index: nothing but the half-transformed rectangle is kept, which
/// would not fit the registers.
#[inline(always)]
pub(super) fn both_ways<V, H, const N: usize, const M: usize, const P: usize, const Q: usize>(
    load: impl Fn(usize, usize) -> Lanes,
    mut store: impl FnMut(usize, Lanes),
    half: &mut Half<P, M>,
) where
    V: Transform<N, M>,
    H: Transform<P, Q>,
{
    for (x, half) in half.iter_mut().enumerate() {
        let mut line = [Lanes::ZERO; N];
        for (y, lanes) in line.iter_mut().enumerate() {
            *lanes = load(y, x);
        }
        *half = apply::<V, N, M>(line);
    }
    for y in 0..M {
        let mut row = [Lanes::ZERO; P];
        for (lanes, half) in row.iter_mut().zip(half.iter()) {
            *lanes = half[y];
        }
        for (x, lanes) in apply::<H, P, Q>(row).into_iter().enumerate() {
            store(y * Q + x, lanes);
        }
    }
}

/// One lane after the other, in one loop: operations on whole [`Lanes`] end up torn into registers of 1, 4 and 8 floats.
#[inline(always)]
pub(super) fn apply<F: Transform<N, M>, const N: usize, const M: usize>(line: [Lanes; N]) -> [Lanes; M] {
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
