//! CPU kernels for two-stage detection, on plain `f32` slices, channels-last.
//!
//! Every kernel has a definition beside it that is compiled always and that the tests compare with, and gives the same bits
//! for any number of threads. Threads are those of the current rayon pool.

pub mod conv;
mod isa;
mod scratch;

pub use self::conv::{ConvShape, Epilogue, conv2d_backward_input, conv2d_backward_weight, conv2d_forward};
pub use self::isa::Isa;
