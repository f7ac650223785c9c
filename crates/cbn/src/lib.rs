//! Cross-Iteration Batch Normalization and its peers as layers for [Burn](https://burn.dev).
//!
//! Batch norm needs batches: with one to four images, as detectors train with, its statistics are noise. Cross-Iteration Batch
//! Normalization (CBN, [Yao et al., CVPR 2021](https://arxiv.org/abs/2002.05712)) takes them from the last iterations too, each
//! corrected to first order for what the layer's weight has changed since. To that end the norm sees what the convolution saw,
//! so the two are one block, [`ConvNorm`]; what follows the convolution is a [`NormConfig`]: none, frozen, batch, group or
//! cross-iteration norm.
//!
//! # A model
//!
//! The norm is a value, so one model serves all of them:
//!
//! ```
//! use burn::module::Module;
//! use burn::optim::{GradientsParams, SgdConfig};
//! use burn::tensor::{Device, Distribution, Tensor};
//! use cbn::{Activation, CbnConfig, ConvNorm, ConvNormConfig, FeatureMap, GroupNormConfig, NormConfig};
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     down: ConvNorm,
//!     last: ConvNorm,
//! }
//!
//! impl Net {
//!     fn new(norm: &NormConfig, device: &Device) -> Self {
//!         let conv = |channels| ConvNormConfig::new(channels, [3, 3]).with_padding([1, 1]).with_norm(norm.clone());
//!         Self {
//!             down: conv([3, 16]).with_stride([2, 2]).with_activation(Activation::Relu).init(device),
//!             last: conv([16, 4]).init(device),
//!         }
//!     }
//!
//!     /// `[B, H, W, 3]` to `[B, H / 2, W / 2, 4]`.
//!     fn forward(&self, x: &FeatureMap) -> FeatureMap {
//!         self.last.forward(&self.down.forward(x))
//!     }
//! }
//!
//! let device = Device::flex().autodiff();
//! let norms = [
//!     NormConfig::CrossIteration(CbnConfig { burn_in_iterations: 2, ..CbnConfig::default() }),
//!     NormConfig::Group(GroupNormConfig::new(2)),
//! ];
//! for norm in norms {
//!     let mut net = Net::new(&norm, &device);
//!     let mut sgd = SgdConfig::new().init();
//!     for _ in 0..5 {
//!         let images = Tensor::random([2, 3, 16, 16], Distribution::Default, &device);
//!         let y = net.forward(&FeatureMap::from_nchw(images)).into_nhwc();
//!         let gradients = GradientsParams::from_grads(y.powi_scalar(4).mean().backward(), &net);
//!         net = sgd.step(0.01, net, gradients);
//!     }
//!     // Without autodiff the running statistics count, and `fuse` folds them into the convolution.
//!     let inference = net.valid();
//!     let fused = Net { down: inference.down.fuse(), last: inference.last.fuse() };
//!     assert_eq!(fused.forward(&FeatureMap::from_nhwc(Tensor::zeros([1, 8, 8, 3], &Device::flex()))).dims(), [1, 4, 4, 4]);
//! }
//! ```
//!
//! A forward pass on a device with autodiff is a training iteration: it counts, is remembered and moves the running statistics.
//! [`ConvNorm::forward_add`] ends a residual block.
//!
//! # Layouts
//!
//! Maps are channels-last in memory, which [`FeatureMap`] keeps apart from Burn's `[B, C, H, W]`. Between Burn's own layers,
//! [`ConvNorm::forward_nchw`] takes and gives Burn's layout, and views the memory instead of copying it where it can.
//! Weights have Burn's and PyTorch's shape, `[C_out, C_in / groups, kh, kw]`.
//!
//! # From Burn's layers
//!
//! [`ConvNorm::from_conv_batch_norm`] makes a block of a trained [`Conv2d`](burn::nn::conv::Conv2d) and the
//! [`BatchNorm`](burn::nn::BatchNorm) behind it, with whichever norm:
//!
//! ```
//! use burn::nn::BatchNormConfig;
//! use burn::nn::conv::Conv2dConfig;
//! use burn::tensor::{Device, Tensor};
//! use cbn::{CbnConfig, ConvNorm, NormConfig};
//!
//! let device = Device::flex();
//! let (conv, norm) = (Conv2dConfig::new([3, 8], [3, 3]).init(&device), BatchNormConfig::new(8).init(&device));
//! let block = ConvNorm::from_conv_batch_norm(&conv, &norm, &NormConfig::CrossIteration(CbnConfig::default()))?;
//! assert_eq!(block.forward_nchw(Tensor::zeros([1, 3, 9, 9], &device)).dims(), [1, 8, 7, 7]);
//! # Ok::<(), cbn::ConvertError>(())
//! ```
//!
//! # Speed
//!
//! On Burn's Flex backend the operations run on the kernels of `cbn-kernels`, on others on Burn's own, see [`ops`]. Feature maps
//! are large, and the system's allocator gives their pages back at once, only to fault them in again. An allocator that keeps
//! them belongs in the binary:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
//! # fn main() {}
//! ```
//!
//! Without autodiff, a block keeps its weight in the kernels' order beside the weight itself, see [`ops::PackedWeightCache`].
//!
//! # Several processes
//!
//! [`NormConfig::among`] gives a `Sync` norm, or a cross-iteration norm over a group, the other processes: [`process_group`] holds what they
//! exchange values through, MPI among it.
//!
//! # Features
//!
//! None by default, which is the CPU and one process. `wgpu`, `cuda` and `rocm` each add Burn's backend of that name and change nothing else;
//! `mpi` adds [`process_group`]'s group of MPI processes and needs an MPI library.
//!
//! # What is where
//!
//! [`norm`] holds the norms, [`norm::cbn`] CBN and all its choices, [`ops`] the operations on feature maps. The mathematics, costs
//! and limits: [docs/cbn.md](https://github.com/cbn-rs/cbn/blob/main/docs/cbn.md).

mod activation;
mod context;
mod conv;
mod conv_norm;
mod convert;
mod feature_map;
mod geometry;
mod linear;
pub mod norm;
pub mod ops;
pub mod process_group;

pub use self::activation::Activation;
pub use self::conv::{Conv, ConvConfig};
pub use self::conv_norm::{ConvNorm, ConvNormConfig};
pub use self::convert::ConvertError;
pub use self::feature_map::FeatureMap;
pub use self::geometry::ConvGeometry;
pub use self::linear::{Linear, LinearConfig};
pub use self::norm::{BatchNormConfig, CbnConfig, ConvSite, FrozenNormConfig, GroupNormConfig, Norm, NormConfig};

/// Compiles and runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
