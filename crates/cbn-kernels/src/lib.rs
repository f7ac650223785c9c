//! CPU kernels for two-stage detection, on plain `f32` slices, channels-last.
//!
//! Every kernel has a definition beside it that is compiled always and that the tests compare with, and gives the same bits
//! for any number of threads. Threads are those of the current rayon pool.

mod ahead;
#[cfg(feature = "mimalloc")]
mod allocator;
mod block_gradient;
pub mod conv;
mod group_norm;
mod isa;
mod map_shape;
mod moments;
mod nms;
mod out;
mod paste;
mod pool;
mod resample;
mod resize;
pub mod roi_align;
mod row_dots;
mod scratch;
mod sgd;
mod stream;
mod transpose;
mod upsample_add;
mod window_sums;

#[cfg(feature = "mimalloc")]
pub use self::allocator::keep_freed_memory;
pub use self::block_gradient::{BlockGradientSums, linear_block_gradient, relu_block_gradient};
pub use self::conv::{ConvShape, Epilogue, conv2d_backward_input, conv2d_backward_weight, conv2d_forward};
pub use self::conv::{PackedWeight, WeightShape, conv2d_backward_weight_pair, conv2d_forward_packed};
pub use self::conv::{Sample, conv2d_backward_weight_of_sample};
pub use self::group_norm::{GroupNorm, GroupShape, group_moments};
pub use self::isa::Isa;
pub use self::map_shape::MapShape;
pub use self::moments::{Clipped, affine, affine_in_place, channel_moments, norm_backward_apply, norm_backward_sums};
pub use self::nms::{nms, nms_reference};
pub use self::paste::{MaskSampling, paste_mask};
pub use self::pool::MaxPool;
pub use self::resample::resample_bilinear_u8;
pub use self::resize::{resize_bilinear_f32, resize_bilinear_torch, resize_bilinear_u8};
pub use self::roi_align::{PyramidLevel, PyramidRoi, Roi, RoiAlign};
pub use self::roi_align::{pyramid_roi_align, pyramid_roi_align_backward};
pub use self::row_dots::row_dots;
pub use self::sgd::{SgdStep, sum_of_squares};
pub use self::upsample_add::{upsample_add, upsample_add_backward};
pub use self::window_sums::{mean_patch, mean_patch_reference};
