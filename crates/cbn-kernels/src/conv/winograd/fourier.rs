//! Transforms of 3x3 convolutions of maps of up to 7 x 7, padding 1, by the discrete Fourier transform of 8 x 8 values: as many
//! outputs as inputs, and one zero between the ends of a cyclic row. So a map needs no tiles, whose edges are computed for nothing.
//!
//! Of the 64 coefficients of a real map 4 are real and 30 are complex, the others are their conjugates. A product of complex numbers
//! takes three real ones (Gauss): `(a + bi) (c + di) = (k1 - k3) + (k1 + k2) i` with `k1 = (a + b) c`, `k2 = a (d - c)`, `k3 = b (c + d)`. So there
//! are 94 products per channel pair and map, where four tiles of F(4x4, 3x3) have 144; and all factors are at most 1, so that rounding
//! hardly grows.
//!
//! Coefficients of a line of 8 are `[X0, X4, Re X1, Im X1, Re X2, Im X2, Re X3, Im X3]`. The gradients' transforms are the transposes.

use std::f32::consts::FRAC_1_SQRT_2;
use std::marker::PhantomData;

use super::lanes::{Lanes, Transform2d, apply};
use super::transforms::Transform;

/// Products per channel pair.
pub(super) const PRODUCTS: usize = 2 * REAL_ROW + 3 * COMPLEX_ROW;
/// Outputs of a map, per side, at most.
pub(super) const SIDE: usize = 7;
/// Products of a row of coefficients of a real row: two real ones, three complex ones.
const REAL_ROW: usize = 2 + 3 * 3;
/// Those of a complex row: eight complex ones.
const COMPLEX_ROW: usize = 8 * 3;

/// Of inputs.
pub(super) type InputSpectra = Spectra<Line, FirstFactor, SIDE, { 2 * SIDE }>;
/// Of the gradients of outputs.
pub(super) type OutputGradientSpectra = Spectra<Line, SumGradient, SIDE, { 2 * SIDE }>;
/// Of the weight.
pub(super) type FilterSpectra = Spectra<Taps, SecondFactor, 3, 6>;
/// Outputs from products.
pub(super) type OutputSums = Sums<Line, Sum, SIDE, { 2 * SIDE }>;
/// The weight's gradient from products.
pub(super) type FilterGradientSums = Sums<Taps, SecondFactorGradient, 3, 6>;

/// Seven values, then a zero.
pub(super) struct Line;

/// Three taps, those of the places 1, 0 and -1.
pub(super) struct Taps;

impl Transform<SIDE, 8> for Line {
    #[inline(always)]
    fn apply(x: [f32; SIDE]) -> [f32; 8] {
        let (a0, a1, a2) = (x[0] + x[4], x[1] + x[5], x[2] + x[6]);
        let (b0, b1, b2) = (x[0] - x[4], x[1] - x[5], x[2] - x[6]);
        let (even, odd) = (a0 + a2, a1 + x[3]);
        let (real, imaginary) = ((b1 - x[3]) * FRAC_1_SQRT_2, (b1 + x[3]) * FRAC_1_SQRT_2);
        [even + odd, even - odd, b0 + real, -b2 - imaginary, a0 - a2, x[3] - a1, b0 - real, b2 - imaginary]
    }
}

impl Transform<8, SIDE> for Line {
    #[inline(always)]
    fn apply(z: [f32; 8]) -> [f32; SIDE] {
        let (sum, difference) = (z[0] + z[1], z[0] - z[1]);
        let (a0, a1, a2, a3) = (sum + z[4], difference - z[5], sum - z[4], difference + z[5]);
        let (real, imaginary) = ((z[2] - z[6]) * FRAC_1_SQRT_2, (z[3] + z[7]) * FRAC_1_SQRT_2);
        let (b0, b1, b2, b3) = (z[2] + z[6], real - imaginary, z[7] - z[3], -real - imaginary);
        [a0 + b0, a1 + b1, a2 + b2, a3 + b3, a0 - b0, a1 - b1, a2 - b2]
    }
}

impl Transform<3, 8> for Taps {
    #[inline(always)]
    fn apply(w: [f32; 3]) -> [f32; 8] {
        let (sum, difference) = (w[0] + w[2], w[2] - w[0]);
        let (real, imaginary) = (sum * FRAC_1_SQRT_2, difference * FRAC_1_SQRT_2);
        [w[1] + sum, w[1] - sum, w[1] + real, imaginary, w[1], difference, w[1] - real, imaginary]
    }
}

impl Transform<8, 3> for Taps {
    #[inline(always)]
    fn apply(z: [f32; 8]) -> [f32; 3] {
        let sum = z[0] - z[1] + (z[2] - z[6]) * FRAC_1_SQRT_2;
        let difference = (z[3] + z[7]) * FRAC_1_SQRT_2 + z[5];
        [sum - difference, z[0] + z[1] + (z[2] + z[6]) + z[4], sum + difference]
    }
}

/// From coefficients to factors of the products.
pub(super) trait Spread {
    #[inline(always)]
    fn real(value: f32) -> f32 {
        value
    }

    fn complex(real: f32, imaginary: f32) -> [f32; 3];
}

/// From products to coefficients.
pub(super) trait Gather {
    #[inline(always)]
    fn real(value: f32) -> f32 {
        value
    }

    fn complex(products: [f32; 3]) -> [f32; 2];
}

/// `a + bi`.
pub(super) struct FirstFactor;

/// `c + di`, over the number of values; complex ones twice, for they stand for their conjugates too.
pub(super) struct SecondFactor;

/// `(a + bi) (c + di)` from k1, k2 and k3.
pub(super) struct Sum;

/// The transpose of [`Sum`].
pub(super) struct SumGradient;

/// The transpose of [`SecondFactor`].
pub(super) struct SecondFactorGradient;

const REAL_SCALE: f32 = 1.0 / 64.0;
const COMPLEX_SCALE: f32 = 2.0 / 64.0;

impl Spread for FirstFactor {
    #[inline(always)]
    fn complex(a: f32, b: f32) -> [f32; 3] {
        [a + b, a, b]
    }
}

impl Spread for SecondFactor {
    #[inline(always)]
    fn real(value: f32) -> f32 {
        value * REAL_SCALE
    }

    #[inline(always)]
    fn complex(c: f32, d: f32) -> [f32; 3] {
        let (c, d) = (c * COMPLEX_SCALE, d * COMPLEX_SCALE);
        [c, d - c, c + d]
    }
}

impl Spread for SumGradient {
    #[inline(always)]
    fn complex(real: f32, imaginary: f32) -> [f32; 3] {
        [real + imaginary, imaginary, -real]
    }
}

impl Gather for Sum {
    #[inline(always)]
    fn complex([k1, k2, k3]: [f32; 3]) -> [f32; 2] {
        [k1 - k3, k1 + k2]
    }
}

impl Gather for SecondFactorGradient {
    #[inline(always)]
    fn real(value: f32) -> f32 {
        value * REAL_SCALE
    }

    #[inline(always)]
    fn complex([k1, k2, k3]: [f32; 3]) -> [f32; 2] {
        [(k1 - k2 + k3) * COMPLEX_SCALE, (k2 + k3) * COMPLEX_SCALE]
    }
}

/// The coefficients of `p + qi` from those of p and q: `[Z0, Z4, Z1, Z7, Z2, Z6, Z3, Z5]`, real and imaginary part each.
#[inline(always)]
fn join(p: [f32; 8], q: [f32; 8]) -> [f32; 16] {
    [
        p[0],
        q[0],
        p[1],
        q[1],
        p[2] - q[3],
        p[3] + q[2],
        p[2] + q[3],
        q[2] - p[3],
        p[4] - q[5],
        p[5] + q[4],
        p[4] + q[5],
        q[4] - p[5],
        p[6] - q[7],
        p[7] + q[6],
        p[6] + q[7],
        q[6] - p[7],
    ]
}

/// The transpose of [`join`].
#[inline(always)]
fn part(z: [f32; 16]) -> [[f32; 8]; 2] {
    [
        [z[0], z[2], z[4] + z[6], z[5] - z[7], z[8] + z[10], z[9] - z[11], z[12] + z[14], z[13] - z[15]],
        [z[1], z[3], z[5] + z[7], z[6] - z[4], z[9] + z[11], z[10] - z[8], z[13] + z[15], z[14] - z[12]],
    ]
}

/// A row of the real coefficients of N columns to the factors of their products.
struct RealFactors<L, R, const N: usize>(PhantomData<(L, R)>);

/// The same of complex ones, all real parts first.
struct ComplexFactors<L, R, const N: usize>(PhantomData<(L, R)>);

/// From products to a row of real coefficients of N columns.
struct RealSums<L, R, const N: usize>(PhantomData<(L, R)>);

/// The same of complex ones.
struct ComplexSums<L, R, const N: usize>(PhantomData<(L, R)>);

impl<L: Transform<N, 8>, R: Spread, const N: usize> Transform<N, REAL_ROW> for RealFactors<L, R, N> {
    #[inline(always)]
    fn apply(line: [f32; N]) -> [f32; REAL_ROW] {
        let z = L::apply(line);
        let mut factors = [R::real(z[0]), R::real(z[1]), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        for k in 0..3 {
            [factors[3 * k + 2], factors[3 * k + 3], factors[3 * k + 4]] = R::complex(z[2 * k + 2], z[2 * k + 3]);
        }
        factors
    }
}

impl<L: Transform<8, N>, R: Gather, const N: usize> Transform<REAL_ROW, N> for RealSums<L, R, N> {
    #[inline(always)]
    fn apply(products: [f32; REAL_ROW]) -> [f32; N] {
        let mut z = [R::real(products[0]), R::real(products[1]), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        for k in 0..3 {
            [z[2 * k + 2], z[2 * k + 3]] = R::complex([products[3 * k + 2], products[3 * k + 3], products[3 * k + 4]]);
        }
        L::apply(z)
    }
}

impl<L: Transform<N, 8>, R: Spread, const N: usize, const NN: usize> Transform<NN, COMPLEX_ROW>
    for ComplexFactors<L, R, N>
{
    #[inline(always)]
    fn apply(line: [f32; NN]) -> [f32; COMPLEX_ROW] {
        let (mut p, mut q) = ([0.0; N], [0.0; N]);
        for i in 0..N {
            (p[i], q[i]) = (line[i], line[N + i]);
        }
        let z = join(L::apply(p), L::apply(q));
        let mut factors = [0.0; COMPLEX_ROW];
        for k in 0..8 {
            [factors[3 * k], factors[3 * k + 1], factors[3 * k + 2]] = R::complex(z[2 * k], z[2 * k + 1]);
        }
        factors
    }
}

impl<L: Transform<8, N>, R: Gather, const N: usize, const NN: usize> Transform<COMPLEX_ROW, NN>
    for ComplexSums<L, R, N>
{
    #[inline(always)]
    fn apply(products: [f32; COMPLEX_ROW]) -> [f32; NN] {
        let mut z = [0.0; 16];
        for k in 0..8 {
            [z[2 * k], z[2 * k + 1]] = R::complex([products[3 * k], products[3 * k + 1], products[3 * k + 2]]);
        }
        let [p, q] = part(z);
        let (p, q) = (L::apply(p), L::apply(q));
        let mut line = [0.0; NN];
        for i in 0..N {
            (line[i], line[N + i]) = (p[i], q[i]);
        }
        line
    }
}

/// Where the products of a complex row of coefficients start.
#[inline(always)]
fn complex_row(k: usize) -> usize {
    2 * REAL_ROW + k * COMPLEX_ROW
}

/// N x N values to [`PRODUCTS`] factors: columns by `L`, then rows by `L` and `R`. `NN` is twice N.
pub(super) struct Spectra<L, R, const N: usize, const NN: usize>(PhantomData<(L, R)>);

impl<L: Transform<N, 8>, R: Spread, const N: usize, const NN: usize> Transform2d<N, N> for Spectra<L, R, N, NN> {
    type Half = [[Lanes; 8]; N];
    const EMPTY: Self::Half = [[Lanes::ZERO; 8]; N];

    #[inline(always)]
    fn apply(load: impl Fn(usize, usize) -> Lanes, mut store: impl FnMut(usize, Lanes), half: &mut Self::Half) {
        for (x, half) in half.iter_mut().enumerate() {
            let mut column = [Lanes::ZERO; N];
            for (y, lanes) in column.iter_mut().enumerate() {
                *lanes = load(y, x);
            }
            *half = apply::<L, N, 8>(column);
        }
        for real in 0..2 {
            let mut row = [Lanes::ZERO; N];
            for (lanes, half) in row.iter_mut().zip(half.iter()) {
                *lanes = half[real];
            }
            let factors = apply::<RealFactors<L, R, N>, N, REAL_ROW>(row);
            for (i, lanes) in factors.iter().enumerate() {
                store(real * REAL_ROW + i, *lanes);
            }
        }
        for k in 0..3 {
            let mut row = [Lanes::ZERO; NN];
            for (x, half) in half.iter().enumerate() {
                (row[x], row[N + x]) = (half[2 * k + 2], half[2 * k + 3]);
            }
            let factors = apply::<ComplexFactors<L, R, N>, NN, COMPLEX_ROW>(row);
            for (i, lanes) in factors.iter().enumerate() {
                store(complex_row(k) + i, *lanes);
            }
        }
    }
}

/// [`PRODUCTS`] products to N x N values: rows by `R` and `L`, then columns by `L`. `NN` is twice N.
pub(super) struct Sums<L, R, const N: usize, const NN: usize>(PhantomData<(L, R)>);

impl<L: Transform<8, N>, R: Gather, const N: usize, const NN: usize> Transform2d<1, PRODUCTS> for Sums<L, R, N, NN> {
    type Half = [[Lanes; 8]; N];
    const EMPTY: Self::Half = [[Lanes::ZERO; 8]; N];

    #[inline(always)]
    fn apply(load: impl Fn(usize, usize) -> Lanes, mut store: impl FnMut(usize, Lanes), half: &mut Self::Half) {
        for real in 0..2 {
            let mut row = [Lanes::ZERO; REAL_ROW];
            for (i, lanes) in row.iter_mut().enumerate() {
                *lanes = load(0, real * REAL_ROW + i);
            }
            let line = apply::<RealSums<L, R, N>, REAL_ROW, N>(row);
            for (half, lanes) in half.iter_mut().zip(&line) {
                half[real] = *lanes;
            }
        }
        for k in 0..3 {
            let mut row = [Lanes::ZERO; COMPLEX_ROW];
            for (i, lanes) in row.iter_mut().enumerate() {
                *lanes = load(0, complex_row(k) + i);
            }
            let line = apply::<ComplexSums<L, R, N>, COMPLEX_ROW, NN>(row);
            for (x, half) in half.iter_mut().enumerate() {
                (half[2 * k + 2], half[2 * k + 3]) = (line[x], line[N + x]);
            }
        }
        for (x, half) in half.iter().enumerate() {
            let column = apply::<L, 8, N>(*half);
            for (y, lanes) in column.iter().enumerate() {
                store(y * N + x, *lanes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 1 of unit maps, in all lanes.
    fn unit<const N: usize>(at: usize) -> impl Fn(usize, usize) -> Lanes {
        move |y, x| Lanes([if y * N + x == at { 1.0 } else { 0.0 }; 16])
    }

    fn factors<F: Transform2d<N, N>, const N: usize>(at: usize) -> [f32; PRODUCTS] {
        let (mut factors, mut half) = ([0.0; PRODUCTS], F::EMPTY);
        F::apply(unit::<N>(at), |f, lanes| factors[f] = lanes.0[0], &mut half);
        factors
    }

    fn sums<F: Transform2d<1, PRODUCTS>>(products: &[f32; PRODUCTS], len: usize) -> Vec<f32> {
        let (mut values, mut half) = (vec![0.0; len], F::EMPTY);
        F::apply(|_, f| Lanes([products[f]; 16]), |i, lanes| values[i] = lanes.0[0], &mut half);
        values
    }

    fn product(a: &[f32; PRODUCTS], b: &[f32; PRODUCTS]) -> [f32; PRODUCTS] {
        std::array::from_fn(|f| a[f] * b[f])
    }

    /// Whether the tap connects the input with the output, each a row-major index.
    fn connects(tap: usize, input: usize, output: usize) -> bool {
        input / SIDE + 1 == output / SIDE + tap / 3 && input % SIDE + 1 == output % SIDE + tap % 3
    }

    #[test]
    fn units_are_the_convolution_and_its_weight_gradient() {
        let inputs: Vec<_> = (0..49).map(factors::<InputSpectra, SIDE>).collect();
        for tap in 0..9 {
            let filter = factors::<FilterSpectra, 3>(tap);
            for (input, spectrum) in inputs.iter().enumerate() {
                let outputs = sums::<OutputSums>(&product(spectrum, &filter), 49);
                for (output, value) in outputs.into_iter().enumerate() {
                    let expected = f32::from(connects(tap, input, output));
                    // Sums of 94 terms of at most 1/16.
                    assert!((value - expected).abs() < 1e-6, "output {output} of {input} by {tap}: {value}");
                }
            }
        }
        for output in 0..49 {
            let gradient = factors::<OutputGradientSpectra, SIDE>(output);
            for (input, spectrum) in inputs.iter().enumerate() {
                let taps = sums::<FilterGradientSums>(&product(spectrum, &gradient), 9);
                for (tap, value) in taps.into_iter().enumerate() {
                    let expected = f32::from(connects(tap, input, output));
                    assert!((value - expected).abs() < 1e-6, "tap {tap} of {input} and {output}: {value}");
                }
            }
        }
    }
}
