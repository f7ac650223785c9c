//! The one-dimensional transforms of F(4, 3), F(6, 3) and F(5, 4), on 16 channels at a time.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, <https://arxiv.org/abs/1509.09308>,
//! section 4.3: `y = A^T [(G g) * (B^T d)]` for m outputs y of r taps g on m + r - 1 inputs d. The gradients are the transposes.
//! F(4, 3) interpolates at 0, 1, -1, 2, -2 and infinity, F(6, 3) and F(5, 4) also at 1/2 and -1/2, with the powers of 1/2 in A
//! times 32 and in G divided by it; they share B, which depends on the points only. Of the sets of seven points tried this one had the smallest error; other powers of two in front
//! of the rows changed nothing.

use std::marker::PhantomData;

/// F(4, 3).
pub(super) struct Four;

/// F(6, 3).
pub(super) struct Six;

/// F(5, 4).
pub(super) struct Five;

/// A one-dimensional transform.
///
/// A trait with a type per transform, for a function that is passed as a value may be called instead of inlined, and then
/// keeps the baseline's instructions.
pub(super) trait Transform<const N: usize, const M: usize> {
    fn apply(line: [f32; N]) -> [f32; M];
}

/// `B^T d`.
pub(super) struct Input<F>(PhantomData<F>);

/// `A^T m`.
pub(super) struct Output<F>(PhantomData<F>);

/// `A y`: the transpose of [`Output`].
pub(super) struct OutputGradient<F>(PhantomData<F>);

/// `G g`.
pub(super) struct Filter<F>(PhantomData<F>);

/// `G^T u`: the transpose of [`Filter`].
pub(super) struct FilterGradient<F>(PhantomData<F>);

impl Transform<6, 6> for Input<Four> {
    #[inline(always)]
    fn apply(d: [f32; 6]) -> [f32; 6] {
        let (even, odd) = (d[4] - d[2] * 4.0, d[3] - d[1] * 4.0);
        let (even2, odd2) = (d[4] - d[2], (d[3] - d[1]) * 2.0);
        let (first, last) = (d[0] * 4.0 - d[2] * 5.0 + d[4], d[1] * 4.0 - d[3] * 5.0 + d[5]);
        [first, even + odd, even - odd, even2 + odd2, even2 - odd2, last]
    }
}

impl Transform<6, 4> for Output<Four> {
    #[inline(always)]
    fn apply(m: [f32; 6]) -> [f32; 4] {
        let (sum, difference) = (m[1] + m[2], m[1] - m[2]);
        let (sum2, difference2) = (m[3] + m[4], m[3] - m[4]);
        [m[0] + sum + sum2, difference + difference2 * 2.0, sum + sum2 * 4.0, difference + difference2 * 8.0 + m[5]]
    }
}

impl Transform<4, 6> for OutputGradient<Four> {
    #[inline(always)]
    fn apply(y: [f32; 4]) -> [f32; 6] {
        let (even, odd) = (y[0] + y[2], y[1] + y[3]);
        let (even2, odd2) = (y[0] + y[2] * 4.0, y[1] * 2.0 + y[3] * 8.0);
        [y[0], even + odd, even - odd, even2 + odd2, even2 - odd2, y[3]]
    }
}

impl Transform<3, 6> for Filter<Four> {
    #[inline(always)]
    fn apply(g: [f32; 3]) -> [f32; 6] {
        let even = (g[0] + g[2]) * (-1.0 / 6.0);
        let odd = g[1] * (1.0 / 6.0);
        let even2 = g[0] * (1.0 / 24.0) + g[2] * (1.0 / 6.0);
        let odd2 = g[1] * (1.0 / 12.0);
        [g[0] * 0.25, even - odd, even + odd, even2 + odd2, even2 - odd2, g[2]]
    }
}

impl Transform<6, 3> for FilterGradient<Four> {
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

impl Transform<8, 8> for Input<Six> {
    #[inline(always)]
    fn apply(d: [f32; 8]) -> [f32; 8] {
        let (even, odd) = (d[2] + d[6] - d[4] * 4.25, d[1] + d[5] - d[3] * 4.25);
        let (even2, odd2) = (d[6] + d[2] * 0.25 - d[4] * 1.25, d[1] * 0.5 + d[5] * 2.0 - d[3] * 2.5);
        let (even_half, odd_half) = (d[6] + d[2] * 4.0 - d[4] * 5.0, d[1] * 2.0 + d[5] * 0.5 - d[3] * 2.5);
        [
            d[0] - d[6] + (d[4] - d[2]) * 5.25,
            even + odd,
            even - odd,
            even2 + odd2,
            even2 - odd2,
            even_half + odd_half,
            even_half - odd_half,
            d[7] - d[1] + (d[3] - d[5]) * 5.25,
        ]
    }
}

impl Transform<8, 6> for Output<Six> {
    #[inline(always)]
    fn apply(m: [f32; 8]) -> [f32; 6] {
        let (sum, difference) = (m[1] + m[2], m[1] - m[2]);
        let (sum2, difference2) = (m[3] + m[4], m[3] - m[4]);
        let (sum_half, difference_half) = (m[5] + m[6], m[5] - m[6]);
        [
            m[0] + sum + sum2 + sum_half * 32.0,
            difference + difference2 * 2.0 + difference_half * 16.0,
            sum + sum2 * 4.0 + sum_half * 8.0,
            difference + difference2 * 8.0 + difference_half * 4.0,
            sum + sum2 * 16.0 + sum_half * 2.0,
            difference + difference2 * 32.0 + difference_half + m[7],
        ]
    }
}

impl Transform<6, 8> for OutputGradient<Six> {
    #[inline(always)]
    fn apply(y: [f32; 6]) -> [f32; 8] {
        let (even, odd) = (y[0] + y[2] + y[4], y[1] + y[3] + y[5]);
        let (even2, odd2) = (y[0] + y[2] * 4.0 + y[4] * 16.0, y[1] * 2.0 + y[3] * 8.0 + y[5] * 32.0);
        let (even_half, odd_half) = (y[0] * 32.0 + y[2] * 8.0 + y[4] * 2.0, y[1] * 16.0 + y[3] * 4.0 + y[5]);
        [y[0], even + odd, even - odd, even2 + odd2, even2 - odd2, even_half + odd_half, even_half - odd_half, y[5]]
    }
}

impl Transform<3, 8> for Filter<Six> {
    #[inline(always)]
    fn apply(g: [f32; 3]) -> [f32; 8] {
        let (even, odd) = ((g[0] + g[2]) * (-2.0 / 9.0), g[1] * (2.0 / 9.0));
        let (even2, odd2) = (g[0] * (1.0 / 90.0) + g[2] * (2.0 / 45.0), g[1] * (1.0 / 45.0));
        let (even_half, odd_half) = (g[0] * (1.0 / 45.0) + g[2] * (1.0 / 180.0), g[1] * (1.0 / 90.0));
        [g[0], even - odd, even + odd, even2 + odd2, even2 - odd2, even_half + odd_half, even_half - odd_half, g[2]]
    }
}

impl Transform<8, 3> for FilterGradient<Six> {
    #[inline(always)]
    fn apply(u: [f32; 8]) -> [f32; 3] {
        let (sum, difference) = (u[1] + u[2], u[2] - u[1]);
        let (sum2, difference2) = (u[3] + u[4], u[3] - u[4]);
        let (sum_half, difference_half) = (u[5] + u[6], u[5] - u[6]);
        [
            u[0] - sum * (2.0 / 9.0) + sum2 * (1.0 / 90.0) + sum_half * (1.0 / 45.0),
            difference * (2.0 / 9.0) + difference2 * (1.0 / 45.0) + difference_half * (1.0 / 90.0),
            sum2 * (2.0 / 45.0) - sum * (2.0 / 9.0) + sum_half * (1.0 / 180.0) + u[7],
        ]
    }
}

impl Transform<8, 8> for Input<Five> {
    #[inline(always)]
    fn apply(d: [f32; 8]) -> [f32; 8] {
        Input::<Six>::apply(d)
    }
}

impl Transform<8, 5> for Output<Five> {
    /// The same powers; infinity counts for the last output.
    #[inline(always)]
    fn apply(m: [f32; 8]) -> [f32; 5] {
        let [y0, y1, y2, y3, y4, _] = Output::<Six>::apply(m);
        [y0, y1, y2, y3, y4 + m[7]]
    }
}

impl Transform<4, 8> for Filter<Five> {
    #[inline(always)]
    fn apply(g: [f32; 4]) -> [f32; 8] {
        let (even, odd) = ((g[0] + g[2]) * (-2.0 / 9.0), (g[1] + g[3]) * (2.0 / 9.0));
        let (even2, odd2) = (g[0] * (1.0 / 90.0) + g[2] * (2.0 / 45.0), g[1] * (1.0 / 45.0) + g[3] * (4.0 / 45.0));
        let (even_half, odd_half) =
            (g[0] * (1.0 / 45.0) + g[2] * (1.0 / 180.0), g[1] * (1.0 / 90.0) + g[3] * (1.0 / 360.0));
        [g[0], even - odd, even + odd, even2 + odd2, even2 - odd2, even_half + odd_half, even_half - odd_half, g[3]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit<const N: usize>(i: usize) -> [f32; N] {
        std::array::from_fn(|j| if i == j { 1.0 } else { 0.0 })
    }

    /// One input and one tap at a time, through the transforms: 1 where the tap of the output reads the input.
    fn check_outputs<F, const SIDE: usize, const TAPS: usize, const REACH: usize>()
    where
        Input<F>: Transform<REACH, REACH>,
        Output<F>: Transform<REACH, SIDE>,
        Filter<F>: Transform<TAPS, REACH>,
    {
        for tap in 0..TAPS {
            for at in 0..REACH {
                let u = Filter::<F>::apply(unit(tap));
                let v = Input::<F>::apply(unit(at));
                let y = Output::<F>::apply(std::array::from_fn(|i| u[i] * v[i]));
                for (i, y) in y.into_iter().enumerate() {
                    let expected = if i + tap == at { 1.0 } else { 0.0 };
                    // Sums of a few terms of up to 32 * 4.25 / 45.
                    assert!((y - expected).abs() < 2e-6, "output {i} of input {at} and tap {tap}: {y}");
                }
            }
        }
    }

    /// One input and one output's gradient at a time: the taps that connect them have a gradient of 1.
    fn check_gradients<F, const SIDE: usize, const REACH: usize>()
    where
        Input<F>: Transform<REACH, REACH>,
        OutputGradient<F>: Transform<SIDE, REACH>,
        FilterGradient<F>: Transform<REACH, 3>,
    {
        for at in 0..REACH {
            for i in 0..SIDE {
                let (v, dy) = (Input::<F>::apply(unit(at)), OutputGradient::<F>::apply(unit(i)));
                let dg = FilterGradient::<F>::apply(std::array::from_fn(|f| dy[f] * v[f]));
                for (tap, dg) in dg.into_iter().enumerate() {
                    let expected = if i + tap == at { 1.0 } else { 0.0 };
                    assert!((dg - expected).abs() < 2e-6, "tap {tap} of input {at} and gradient {i}: {dg}");
                }
            }
        }
    }

    #[test]
    fn transforms_of_units_are_the_convolution() {
        check_outputs::<Four, 4, 3, 6>();
        check_outputs::<Six, 6, 3, 8>();
        check_outputs::<Five, 5, 4, 8>();
    }

    #[test]
    fn transforms_of_units_are_the_weight_gradient() {
        check_gradients::<Four, 4, 6>();
        check_gradients::<Six, 6, 8>();
    }
}
