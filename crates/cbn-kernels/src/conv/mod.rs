//! 2-d convolution and its gradients, channels-last.
//!
//! Maps are `[B, H, W, C]`, weights `[K, C / groups, kh, kw]`, all contiguous `f32`. Results do not depend on the number of
//! threads, bit for bit. [`mod@reference`] is the definition; the algorithms are [`Algorithm`]'s.
//!
//! An output that reads a NaN or an infinity is not finite whatever the algorithm. By [`Algorithm::Gemm`] and [`Algorithm::Depthwise`] it is
//! what the definition says, and no other output changes. By the others it may be a NaN where the definition has an infinity, and all
//! outputs of the tiles, or of the map, that share the input are concerned.

mod depthwise;
mod epilogue;
mod gemm;
mod gemm_weight;
mod interleaved;
mod microkernel;
mod packed_weight;
mod plan;
pub mod reference;
mod sampled;
mod shape;
mod transposed;
mod winograd;

pub use self::epilogue::Epilogue;
pub use self::packed_weight::{PackedWeight, WeightShape};
pub use self::sampled::{Sample, conv2d_backward_weight_of_sample};
pub use self::shape::ConvShape;
pub use self::winograd::TileSize;

use self::packed_weight::Weight;
use self::plan::Plan;
use self::winograd::{Bands, Tile};
use crate::isa::{Isa, Kernels};
use crate::out::{self, Out};

/// Winograd's channels. From so many on the weight gradient gains too: 1.3 times at 16 channels, twice at 32, three times at 64.
const MIN_CHANNELS: usize = 16;
/// Below this many small tiles transforming the weight and the maps costs about what the products it saves do.
const MIN_TILES: usize = 48;
/// With a large weight, of so many elements per tap, so many tiles of each map are enough (measured at 256 and 512 channels: six to nine). It is not the batch's
/// number, so that processes which share a batch compute what one would.
const MIN_TILES_OF_MAP: usize = 6;
const LARGE: usize = 200 * 200;

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Matrix products over the taps; any shape.
    Gemm,
    /// Winograd's F(4x4, 3x3) or F(6x6, 3x3): 3x3 kernels with stride 1, dilation 1, one group and padding up to 2.
    Winograd(TileSize),
    /// Winograd with tiles of 4 and of 6 outputs per side on each map: what [`Algorithm::Winograd`] computes.
    MixedWinograd,
    /// Whole maps of up to 7 x 7 by the discrete Fourier transform: what [`Algorithm::Winograd`] computes, with padding 1.
    Fourier,
    /// Winograd's F(5x5, 4x4) on the map whose pixels are two by two of the input's: forward convolutions of stride 2 with kernels of 7
    /// or 8 taps per side, up to 8 input channels, dilation 1, one group, any padding. The gradients are those of [`Algorithm::Gemm`].
    StridedWinograd,
    /// Channel by channel, without matrix products: as many groups as input and output channels, more than one.
    Depthwise,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Gemm,
        Self::Winograd(TileSize::Four),
        Self::Winograd(TileSize::Six),
        Self::MixedWinograd,
        Self::Fourier,
        Self::StridedWinograd,
        Self::Depthwise,
    ];

    /// Whether the algorithm computes this shape at all.
    pub fn is_applicable(self, shape: &ConvShape) -> bool {
        match self {
            Self::Gemm => true,
            Self::Winograd(_) | Self::MixedWinograd => winograd::is_applicable(shape),
            Self::Fourier => winograd::is_applicable_whole(shape),
            Self::StridedWinograd => winograd::strided::is_applicable(shape),
            Self::Depthwise => depthwise::is_applicable(shape),
        }
    }

    /// The faster algorithm for the convolution and its data gradient.
    ///
    /// Winograd has fewer products but more traffic: it transforms the weight, so it needs some tiles to share it, and the
    /// maps, so it needs some channels. Large tiles where there are some, the map's edges leave them a tenth fewer products than small ones
    /// have, and there are at most 512 channels, for accuracy; both where there are many small maps; the Fourier transform where there
    /// are many of 7 x 7. A kernel of 7 or 8 taps per side and stride 2 is one of 4 taps on joined pixels.
    pub fn choose(shape: &ConvShape) -> Self {
        if winograd::strided::is_worth_it(shape) {
            return Self::StridedWinograd;
        }
        Self::winograd_or_other(shape, TileSize::choose, winograd::mixed::is_worth_it)
    }

    /// The faster algorithm for the weight gradient.
    pub fn choose_for_weight_gradient(shape: &ConvShape) -> Self {
        let is_mixed = winograd::mixed::is_worth_it_for_weight_gradient;
        Self::winograd_or_other(shape, TileSize::choose_for_weight_gradient, is_mixed)
    }

    fn winograd_or_other(
        shape: &ConvShape,
        size: impl Fn(&ConvShape) -> TileSize,
        is_mixed: impl Fn(&ConvShape, TileSize) -> bool,
    ) -> Self {
        let tiles = |batch| TileSize::Four.count(batch, shape.out_height(), shape.out_width());
        let is_large = shape.in_channels * shape.out_channels >= LARGE;
        let has_tiles = tiles(shape.batch) >= MIN_TILES || is_large && tiles(1) >= MIN_TILES_OF_MAP;
        let is_worth_it = shape.in_channels.min(shape.out_channels) >= MIN_CHANNELS && has_tiles;
        if depthwise::is_applicable(shape) {
            return Self::Depthwise;
        }
        if !winograd::is_applicable(shape) || !is_worth_it {
            return Self::Gemm;
        }
        match size(shape) {
            _ if winograd::is_worth_it_whole(shape) => Self::Fourier,
            size if is_mixed(shape, size) => Self::MixedWinograd,
            size => Self::Winograd(size),
        }
    }
}

/// What computes a convolution: [`Method::best`], or any other that is applicable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The instruction set, which the machine must have.
    pub isa: Isa,
}

impl Method {
    /// The fastest on this machine for the convolution and its data gradient.
    pub fn best(shape: &ConvShape) -> Self {
        Self { algorithm: Algorithm::choose(shape), isa: Isa::detect() }
    }

    /// The fastest on this machine for the weight gradient.
    pub fn best_for_weight_gradient(shape: &ConvShape) -> Self {
        Self { algorithm: Algorithm::choose_for_weight_gradient(shape), isa: Isa::detect() }
    }

    /// `y = epilogue(x * weight)`.
    ///
    /// # Shapes
    ///
    /// `x`: `[B, H, W, C]`, `weight`: `[K, C / groups, kh, kw]`, `y`: `[B, H', W', K]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit the shape, or the method does not fit the shape or the machine.
    pub fn forward(self, shape: &ConvShape, x: &[f32], weight: &[f32], epilogue: &Epilogue<'_>, y: &mut [f32]) {
        self.run_forward(shape, x, Weight::Plain(weight), epilogue, out::over(y));
    }

    /// [`Method::forward`], with the same bits, without the work on the weight.
    ///
    /// # Panics
    ///
    /// As [`Method::forward`]; also if the weight was packed for another [`ConvShape::weight_shape`].
    pub fn forward_packed(
        self,
        shape: &ConvShape,
        x: &[f32],
        weight: &PackedWeight,
        epilogue: &Epilogue<'_>,
        y: &mut [f32],
    ) {
        self.run_forward(shape, x, Weight::Packed(weight), epilogue, out::over(y));
    }

    fn run_forward(self, shape: &ConvShape, x: &[f32], weight: Weight<'_>, epilogue: &Epilogue<'_>, y: &mut Out) {
        if let Weight::Packed(weight) = weight {
            assert_eq!(weight.shape(), shape.weight_shape(), "the weight is packed for the convolution");
        }
        let kernels = self.check(shape, [x.len(), weight.len(), y.len()]);
        epilogue.check(shape.out_channels, y.len());
        if y.is_empty() {
            return;
        }
        match self.algorithm {
            Algorithm::Gemm => gemm::run(kernels, &Plan::forward(shape), x, weight, epilogue, y),
            Algorithm::Winograd(size) => winograd::forward((kernels, size.tile()), shape, x, weight, epilogue, y),
            Algorithm::Fourier => winograd::forward((kernels, Tile::Whole), shape, x, weight, epilogue, y),
            Algorithm::MixedWinograd => winograd::mixed::forward(kernels, shape, x, weight, epilogue, y),
            Algorithm::StridedWinograd => winograd::strided::forward(kernels, shape, x, weight, epilogue, y),
            Algorithm::Depthwise => depthwise::run(kernels, &Plan::forward(shape), x, weight, epilogue, y),
        }
    }

    /// The gradient with regard to `x`, from that with regard to the convolution's result.
    ///
    /// Shapes and panics as for [`Method::forward`].
    pub fn backward_input(self, shape: &ConvShape, grad_y: &[f32], weight: &[f32], grad_x: &mut [f32]) {
        self.run_backward_input(shape, grad_y, weight, out::over(grad_x));
    }

    fn run_backward_input(self, shape: &ConvShape, grad_y: &[f32], weight: &[f32], grad_x: &mut Out) {
        let kernels = self.check(shape, [grad_x.len(), weight.len(), grad_y.len()]);
        if grad_x.is_empty() || grad_y.is_empty() {
            return out::zero(grad_x);
        }
        match self.algorithm {
            Algorithm::Gemm | Algorithm::StridedWinograd if interleaved::is_worth_it(shape) => {
                interleaved::backward_input(kernels, shape, grad_y, weight, grad_x);
            }
            Algorithm::Gemm | Algorithm::StridedWinograd => {
                let plan = Plan::backward_input(shape);
                gemm::run(kernels, &plan, grad_y, Weight::Plain(weight), &Epilogue::default(), grad_x);
            }
            Algorithm::Winograd(size) => {
                winograd::backward_input((kernels, size.tile()), shape, grad_y, weight, grad_x)
            }
            Algorithm::Fourier => winograd::backward_input((kernels, Tile::Whole), shape, grad_y, weight, grad_x),
            Algorithm::MixedWinograd => winograd::mixed::backward_input(kernels, shape, grad_y, weight, grad_x),
            Algorithm::Depthwise => {
                let plan = Plan::backward_input(shape);
                depthwise::run(kernels, &plan, grad_y, Weight::Plain(weight), &Epilogue::default(), grad_x);
            }
        }
    }

    /// The gradient with regard to `weight`, from that with regard to the convolution's result.
    ///
    /// Shapes and panics as for [`Method::forward`].
    pub fn backward_weight(self, shape: &ConvShape, x: &[f32], grad_y: &[f32], grad_weight: &mut [f32]) {
        self.run_backward_weight(shape, x, [grad_y], [grad_weight]);
    }

    /// [`Method::backward_weight`] of two losses, with the same bits as two calls: `x` is transformed or gathered once.
    ///
    /// Shapes and panics as for [`Method::forward`].
    pub fn backward_weight_pair(
        self,
        shape: &ConvShape,
        x: &[f32],
        grad_ys: [&[f32]; 2],
        grad_weights: [&mut [f32]; 2],
    ) {
        self.run_backward_weight(shape, x, grad_ys, grad_weights);
    }

    fn run_backward_weight<const N: usize>(
        self,
        shape: &ConvShape,
        x: &[f32],
        grad_ys: [&[f32]; N],
        grad_weights: [&mut [f32]; N],
    ) {
        for (grad_y, grad_weight) in grad_ys.iter().zip(&grad_weights) {
            self.check(shape, [x.len(), grad_weight.len(), grad_y.len()]);
        }
        let kernels = Kernels::new(self.isa);
        if shape.input_len() == 0 || shape.output_len() == 0 || shape.weight_len() == 0 {
            return grad_weights.into_iter().for_each(|grad_weight| grad_weight.fill(0.0));
        }
        let all = (shape.batch, Bands::ALL);
        match self.algorithm {
            Algorithm::Gemm | Algorithm::StridedWinograd => gemm_weight::run(kernels, shape, x, grad_ys, grad_weights),
            Algorithm::Winograd(size) => {
                winograd::backward_weight((kernels, size.tile()), all, shape, x, grad_ys, grad_weights);
            }
            Algorithm::Fourier => {
                winograd::backward_weight((kernels, Tile::Whole), all, shape, x, grad_ys, grad_weights);
            }
            Algorithm::MixedWinograd => winograd::mixed::backward_weight(kernels, all, shape, x, grad_ys, grad_weights),
            Algorithm::Depthwise => {
                for (grad_y, grad_weight) in grad_ys.into_iter().zip(grad_weights) {
                    depthwise::backward_weight(kernels, shape, x, grad_y, grad_weight);
                }
            }
        }
    }

    fn check(self, shape: &ConvShape, lens: [usize; 3]) -> Kernels {
        shape.check();
        assert!(self.algorithm.is_applicable(shape), "{:?} does not compute {shape:?}", self.algorithm);
        let expected = [shape.input_len(), shape.weight_len(), shape.output_len()];
        assert_eq!(lens, expected, "lengths of input, weight and output of {shape:?}");
        Kernels::new(self.isa)
    }
}

/// [`Method::forward`] by the best method; the result is `[B, H', W', K]`.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn conv2d_forward(shape: &ConvShape, x: &[f32], weight: &[f32], epilogue: &Epilogue<'_>) -> Vec<f32> {
    forward_to_vec(shape, x, Weight::Plain(weight), epilogue)
}

/// [`Method::forward_packed`] by the best method; the result is `[B, H', W', K]`.
///
/// # Panics
///
/// As [`conv2d_forward`]; also if the weight was packed for another [`ConvShape::weight_shape`].
pub fn conv2d_forward_packed(shape: &ConvShape, x: &[f32], weight: &PackedWeight, epilogue: &Epilogue<'_>) -> Vec<f32> {
    forward_to_vec(shape, x, Weight::Packed(weight), epilogue)
}

fn forward_to_vec(shape: &ConvShape, x: &[f32], weight: Weight<'_>, epilogue: &Epilogue<'_>) -> Vec<f32> {
    shape.check();
    let method = Method::best(shape);
    // SAFETY: every algorithm writes all channels of every output pixel.
    unsafe { out::filled(shape.output_len(), |y| method.run_forward(shape, x, weight, epilogue, y)) }
}

/// [`Method::backward_input`] by the best method; the result is `[B, H, W, C]`.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn conv2d_backward_input(shape: &ConvShape, grad_y: &[f32], weight: &[f32]) -> Vec<f32> {
    shape.check();
    let method = Method::best(shape);
    // SAFETY: every algorithm writes all channels of every input pixel; without outputs they are all zero.
    unsafe { out::filled(shape.input_len(), |grad_x| method.run_backward_input(shape, grad_y, weight, grad_x)) }
}

/// [`Method::backward_weight`] by the best method.
pub fn conv2d_backward_weight(shape: &ConvShape, x: &[f32], grad_y: &[f32], grad_weight: &mut [f32]) {
    Method::best_for_weight_gradient(shape).backward_weight(shape, x, grad_y, grad_weight);
}

/// [`Method::backward_weight_pair`] by the best method.
pub fn conv2d_backward_weight_pair(shape: &ConvShape, x: &[f32], grad_ys: [&[f32]; 2], grad_weights: [&mut [f32]; 2]) {
    Method::best_for_weight_gradient(shape).backward_weight_pair(shape, x, grad_ys, grad_weights);
}
