//! The gradients of the operations, over any backend that has them.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};

use super::reference::dims4;
use super::{KernelBackend, NormalizeGradients, PoolGeometry, Roi, RoiAlignConfig};
use crate::ConvGeometry;

#[derive(Debug)]
struct Conv2d;

impl<B: KernelBackend> Backward<B, 2> for Conv2d {
    type State = (FloatTensor<B>, FloatTensor<B>, ConvGeometry);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let (x, weight, geometry) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let (x_shape, weight_shape) = (dims4::<B>(&x), dims4::<B>(&weight));
        if let Some(node) = weight_node {
            let grad = B::channels_last_conv2d_weight_backward(x, grad.clone(), weight_shape, geometry);
            grads.register::<B>(node.id, grad);
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::channels_last_conv2d_x_backward(weight, grad, x_shape, geometry));
        }
    }
}

#[derive(Debug)]
struct RowDots;

impl<B: KernelBackend> Backward<B, 1> for RowDots {
    type State = (FloatTensor<B>, [usize; 2]);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (a, b_shape) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::channels_last_row_dots_backward(a, grad, b_shape));
        }
    }
}

#[derive(Debug)]
struct Normalize;

impl<B: KernelBackend> Backward<B, 4> for Normalize {
    type State = [FloatTensor<B>; 4];

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [y, gamma, moments, factors] = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let NormalizeGradients { y, gamma, beta, moments }: NormalizeGradients<B> =
            B::channels_last_normalize_backward(y, gamma, moments, factors, grad);
        for (node, grad) in ops.parents.into_iter().zip([y, gamma, beta, moments]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct MaxPool2d;

impl<B: KernelBackend> Backward<B, 1> for MaxPool2d {
    type State = (FloatTensor<B>, B::IntTensorPrimitive, PoolGeometry);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (x, indices, pool) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::channels_last_max_pool2d_backward(x, grad, indices, pool));
        }
    }
}

#[derive(Debug)]
struct UpsampleAdd;

impl<B: KernelBackend> Backward<B, 2> for UpsampleAdd {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [coarse_node, fine_node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        if let Some(node) = coarse_node {
            grads.register::<B>(node.id, B::channels_last_upsample_add_backward(ops.state, grad.clone()));
        }
        if let Some(node) = fine_node {
            grads.register::<B>(node.id, grad);
        }
    }
}

#[derive(Debug)]
struct RoiAlign;

impl<B: KernelBackend> Backward<B, 1> for RoiAlign {
    type State = (Vec<Roi>, RoiAlignConfig, [usize; 4]);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (rois, config, x_shape) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::channels_last_roi_align_backward(grad, rois, config, x_shape));
        }
    }
}

impl<B: KernelBackend, C: CheckpointStrategy> KernelBackend for Autodiff<B, C> {
    fn channels_last_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        geometry: ConvGeometry,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let y = B::channels_last_conv2d(x.clone(), weight.clone(), geometry);
        match Conv2d.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, weight, geometry), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn channels_last_row_dots(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [b.node()];
        let b_shape = b.shape().dims();
        let a = a.into_primitive();
        let dots = B::channels_last_row_dots(a.clone(), b.into_primitive());
        match RowDots.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((a, b_shape), dots),
            OpsKind::UnTracked(prep) => prep.finish(dots),
        }
    }

    fn channels_last_normalize(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        factors: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [y.node(), gamma.node(), beta.node(), moments.node()];
        let beta = beta.into_primitive();
        let [y, gamma, moments, factors] = [y, gamma, moments, factors].map(|x| x.into_primitive());
        let out = B::channels_last_normalize(y.clone(), gamma.clone(), beta, moments.clone(), factors.clone());
        match Normalize.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([y, gamma, moments, factors], out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn channels_last_max_pool2d(x: FloatTensor<Self>, pool: PoolGeometry) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let x = x.into_primitive();
        let (y, indices) = B::channels_last_max_pool2d_with_indices(x.clone(), pool);
        match MaxPool2d.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, indices, pool), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn channels_last_upsample_add(coarse: FloatTensor<Self>, fine: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [coarse.node(), fine.node()];
        let coarse = coarse.into_primitive();
        let sum = B::channels_last_upsample_add(coarse.clone(), fine.into_primitive());
        match UpsampleAdd.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(coarse, sum),
            OpsKind::UnTracked(prep) => prep.finish(sum),
        }
    }

    fn channels_last_roi_align(x: FloatTensor<Self>, rois: Vec<Roi>, config: RoiAlignConfig) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let x_shape = x.shape().dims();
        let crops = B::channels_last_roi_align(x.into_primitive(), rois.clone(), config);
        match RoiAlign.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((rois, config, x_shape), crops),
            OpsKind::UnTracked(prep) => prep.finish(crops),
        }
    }
}
