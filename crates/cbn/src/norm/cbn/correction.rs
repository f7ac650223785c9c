//! How the moments of a past iteration are brought to the current weight.

use std::sync::{Arc, LazyLock};

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::config::{CbnConfig, Compensation};
use super::exact::PastPatches;
use super::sampling::sampled_second_gradient;
use crate::FeatureMap;
use crate::context::plain;
use crate::norm::ConvSite;
use crate::norm::buffer::Buffer;
use crate::norm::statistics::{Moments, mean_over, positions};
use crate::ops::{mean_patch, row_dots};
use crate::process_group::Peers;

/// A convolution, and the processes whose inputs are one iteration.
pub(super) struct PeerSite<'a> {
    pub site: &'a ConvSite<'a>,
    pub peers: &'a Peers,
}

/// What an entry of the history keeps to that end.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a layer has a handful of them, and the large one is the rule")]
pub enum Correction {
    /// Nothing.
    None(Uncorrected),
    /// The derivatives of both moments.
    FirstOrder(FirstOrder),
    /// Patches of the input.
    Exact(PastPatches),
}

/// The moments of a past iteration are taken as they were.
#[derive(Module, Debug)]
pub struct Uncorrected;

/// The first-order Taylor term in the weight, with `D = C_in / groups * kh * kw`.
#[derive(Module, Debug)]
pub struct FirstOrder {
    /// `dmu/dw`: the mean input patch, `[groups, D]`, the same for all channels of a group.
    pub mean_patch: Buffer<2>,
    /// `dnu/dw`, `[C_out, D]`.
    pub second_gradient: Buffer<2>,
    /// `dmu/dw . w` and `dnu/dw . w` with the weight of that iteration, `[2, C_out]`: instead of the weight.
    pub along_weight: Buffer<2>,
    /// Strength of the correction.
    pub rho: f64,
    /// The second moment's gradient is estimated from every n-th output position.
    pub derivative_sampling: usize,
}

impl Correction {
    pub(super) fn new(config: &CbnConfig, weight_shape: [usize; 4], groups: usize, device: &Device) -> Self {
        let [out_channels, group_in, kernel_height, kernel_width] = weight_shape;
        let patch_len = group_in * kernel_height * kernel_width;
        match config.compensation {
            Compensation::None {} => Self::None(Uncorrected),
            Compensation::Exact { positions } => Self::Exact(PastPatches::new(positions, [groups, patch_len], device)),
            Compensation::FirstOrder { rho } => Self::FirstOrder(FirstOrder {
                mean_patch: Buffer::new(Tensor::zeros([groups, patch_len], device)),
                second_gradient: Buffer::new(Tensor::zeros([out_channels, patch_len], device)),
                along_weight: Buffer::new(Tensor::zeros([2, out_channels], device)),
                rho,
                derivative_sampling: config.derivative_sampling,
            }),
        }
    }

    /// The moments under `weight`, `[C_out, D]`, of an iteration that had `then`; the variance may come out negative.
    pub(super) fn apply(&self, then: Moments, weight: &Tensor<2>) -> Moments {
        match self {
            Self::None(_) => then,
            Self::FirstOrder(first_order) => first_order.apply(then, weight),
            Self::Exact(patches) => patches.moments(weight),
        }
    }

    /// Whether it can use a second gradient that the convolution's backward pass leaves.
    pub(super) fn wants_second_gradient(&self) -> bool {
        matches!(self, Self::FirstOrder(FirstOrder { derivative_sampling: 1, .. }))
    }

    /// Takes what it needs from the current iteration: its output and what the convolution read.
    pub(super) fn store(&self, y: &FeatureMap, of_peers: &PeerSite<'_>, iteration: usize) {
        match self {
            Self::None(_) => {}
            Self::FirstOrder(first_order) => first_order.store(y, of_peers, iteration),
            Self::Exact(patches) => {
                let site = of_peers.site;
                let [_, height, width, _] = y.dims();
                patches.store(plain(site.input.nhwc().clone()), [height, width], site, iteration);
            }
        }
    }
}

impl FirstOrder {
    /// With `dmu` and `dnu` the changes of the moments, `var(w) = nu + dnu - (mu + dmu)^2 = var + dnu - 2 mu dmu - dmu^2`.
    fn apply(&self, then: Moments, weight: &Tensor<2>) -> Moments {
        let device = weight.device();
        let along = self.along_weight.value_beside(&device);
        let change = |gradient: &Buffer<2>, i: usize| {
            let along = along.clone().slice([i..i + 1]).squeeze_dim::<1>(0);
            (row_dots(gradient.value_beside(&device), weight.clone()) - along) * self.rho
        };
        let (of_mean, of_second) = (change(&self.mean_patch, 0), change(&self.second_gradient, 1));
        let mean = then.mean.clone() + of_mean.clone();
        let var = then.var + of_second - (then.mean * 2.0 + of_mean.clone()) * of_mean;
        Moments { mean, var }
    }

    fn store(&self, y: &FeatureMap, PeerSite { site, peers }: &PeerSite<'_>, iteration: usize) {
        let own_positions = positions(y);
        let (x, y, weight) = (plain(site.input.nhwc().clone()), plain(y.nhwc().clone()), plain(site.weight.clone()));
        let weight_shape = weight.dims();
        let weight = rows(weight);
        let patch = rows(mean_patch(x.clone(), [weight_shape[2], weight_shape[3]], site.geometry));
        let patch = mean_over(patch, own_positions, peers);
        let along_mean = row_dots(patch.clone(), weight.clone());
        self.mean_patch.set(patch);

        let gradient: Box<dyn FnOnce() -> Tensor<2> + Send> = match site.second_gradient {
            Some(cell) => {
                let [batch, height, width, _] = y.dims();
                cell.wait(x, y);
                let (cell, geometry, beside) = (cell.clone(), *site.geometry, along_mean.clone());
                let factor = 2.0 / (batch * height * width) as f64;
                Box::new(move || rows(cell.take(weight_shape, &geometry, beside)) * factor)
            }
            None => {
                let every = self.derivative_sampling;
                let gradient = rows(sampled_second_gradient(x, y, weight_shape, site.geometry, [every, iteration]));
                Box::new(move || gradient)
            }
        };
        // Peers ask in the same order: each layer's in its next forward pass, or all of them where the module is recorded.
        let peers = (*peers).clone();
        let gradient: Box<dyn FnOnce() -> Tensor<2> + Send> =
            Box::new(move || mean_over(gradient(), own_positions, &peers));
        // Two buffers, made together when the first of them is asked for.
        let made = Arc::new(LazyLock::new(gradient));
        let also_made = made.clone();
        self.second_gradient.set_later(move || (**made).clone());
        self.along_weight.set_later(move || {
            let along_second = row_dots((**also_made).clone(), weight);
            Tensor::stack(vec![along_mean, along_second], 0)
        });
    }
}

/// `[N, C, kh, kw]` as `[N, D]`.
pub(super) fn rows(x: Tensor<4>) -> Tensor<2> {
    let [count, channels, kernel_height, kernel_width] = x.dims();
    x.reshape([count, channels * kernel_height * kernel_width])
}
