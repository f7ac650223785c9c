//! The gradients of the operations, over any backend that has them.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};
use burn::tensor::{Shape, Slice};

use super::reference::dims4;
use super::{
    Addend, BlockGradients, GroupNormGradients, GroupNormOptions, KernelBackend, NormalizeGradients, PoolGeometry,
    PyramidRoi, Roi, RoiAlignConfig, SecondGradientCell, SharedCache, WeightGradientPair,
};
use crate::ConvGeometry;
use crate::process_group::Peers;

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

/// A convolution that leaves the gradient of its output's second moment.
#[derive(Debug)]
struct RememberingConv2d;

impl<B: KernelBackend> Backward<B, 2> for RememberingConv2d {
    type State = ([FloatTensor<B>; 3], ConvGeometry, SecondGradientCell);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let ([x, weight, y], geometry, cell) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let (x_shape, weight_shape) = (dims4::<B>(&x), dims4::<B>(&weight));
        if let Some(node) = weight_node {
            let pair: WeightGradientPair<B> =
                B::channels_last_conv2d_weight_backward_pair(x, grad.clone(), y, weight_shape, geometry);
            cell.leave::<B>(pair.of_output);
            grads.register::<B>(node.id, pair.of_loss);
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::channels_last_conv2d_x_backward(weight, grad, x_shape, geometry));
        }
    }
}

/// What a convolution block keeps for its gradients.
#[derive(Clone, Debug)]
struct BlockState<B: KernelBackend> {
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    affine: FloatTensor<B>,
    out: FloatTensor<B>,
    residual: Addend<B>,
    geometry: ConvGeometry,
    relu: bool,
}

impl<B: KernelBackend> BlockState<B> {
    /// Gradients for x, weight, affine and, last, residual, where they are asked for.
    fn register(self, grad: FloatTensor<B>, parents: [Option<NodeId>; 4], grads: &mut Gradients) {
        let Self { x, weight, affine, out, residual, geometry, relu } = self;
        let [x_node, weight_node, affine_node, residual_node] = parents;
        let (x_shape, weight_shape) = (dims4::<B>(&x), dims4::<B>(&weight));
        let gradients: BlockGradients<B> = B::channels_last_conv_block_backward(
            x.clone(),
            weight.clone(),
            affine.clone(),
            out,
            grad,
            residual,
            geometry,
            relu,
        );
        let sum = gradients.sum;
        let scale = B::float_slice(affine, &[Slice::from(0..1), Slice::full()]);
        let scale = B::float_reshape(scale, Shape::from([weight_shape[0], 1, 1, 1]));
        if let Some(node) = affine_node {
            grads.register::<B>(node, gradients.affine);
        }
        if let Some(node) = weight_node {
            let of_weight = B::channels_last_conv2d_weight_backward(x, sum.clone(), weight_shape, geometry);
            grads.register::<B>(node, B::float_mul(of_weight, scale.clone()));
        }
        if let Some(node) = x_node {
            let weight = B::float_mul(weight, scale);
            let of_x = B::channels_last_conv2d_x_backward(weight, sum.clone(), x_shape, geometry);
            grads.register::<B>(node, of_x);
        }
        if let Some(node) = residual_node {
            grads.register::<B>(node, sum);
        }
    }
}

#[derive(Debug)]
struct ConvBlock;

impl<B: KernelBackend> Backward<B, 3> for ConvBlock {
    type State = BlockState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x, weight, affine] = ops.parents.map(|node| node.map(|node| node.id));
        ops.state.register(grad, [x, weight, affine, None], grads);
    }
}

impl<B: KernelBackend> Backward<B, 4> for ConvBlock {
    type State = BlockState<B>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        ops.state.register(grad, ops.parents.map(|node| node.map(|node| node.id)), grads);
    }
}

#[derive(Debug)]
struct GroupNorm;

impl<B: KernelBackend> Backward<B, 3> for GroupNorm {
    type State = ([FloatTensor<B>; 3], GroupNormOptions);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let ([x, gamma, beta], options) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let GroupNormGradients { x, gamma, beta }: GroupNormGradients<B> =
            B::channels_last_group_norm_backward(x, gamma, beta, grad, options);
        for (node, grad) in ops.parents.into_iter().zip([x, gamma, beta]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
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
    type State = ([FloatTensor<B>; 5], bool, Peers);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let ([y, gamma, beta, moments, factors], relu, peers) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let NormalizeGradients { y, gamma, beta, moments }: NormalizeGradients<B> =
            B::channels_last_normalize_backward(y, gamma, beta, moments, factors, grad, relu, peers);
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

/// What the crops of a pyramid keep: the boxes, and how each level is cropped and its shape.
type PyramidState = (Vec<PyramidRoi>, [RoiAlignConfig; 4], [[usize; 4]; 4]);

#[derive(Debug)]
struct PyramidRoiAlign;

impl<B: KernelBackend> Backward<B, 4> for PyramidRoiAlign {
    type State = PyramidState;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (rois, aligns, shapes) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        for (level, node) in ops.parents.into_iter().enumerate() {
            // A level without boxes takes no part.
            if let Some(node) = node.filter(|_| rois.iter().any(|roi| roi.level == level)) {
                let rois = rois.clone();
                let (align, shape) = (aligns[level], shapes[level]);
                let of_level = B::channels_last_pyramid_roi_align_backward(grad.clone(), rois, align, level, shape);
                grads.register::<B>(node.id, of_level);
            }
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

    fn channels_last_conv2d_remembering(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        geometry: ConvGeometry,
        cell: SecondGradientCell,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let y = B::channels_last_conv2d(x.clone(), weight.clone(), geometry);
        match RememberingConv2d.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([x, weight, y.clone()], geometry, cell), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn channels_last_conv_block(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        affine: FloatTensor<Self>,
        residual: Addend<Self>,
        geometry: ConvGeometry,
        relu: bool,
        _packed: SharedCache,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), affine.node()];
        let [x, weight, affine] = [x, weight, affine].map(|x| x.into_primitive());
        let (residual, residual_node) = match residual {
            Addend::Nothing => (Addend::Nothing, None),
            Addend::Map(map) => {
                let node = map.node();
                (Addend::Map(map.into_primitive()), Some(node))
            }
        };
        // A weight that trains changes at every step: nothing to keep.
        let out = B::channels_last_conv_block(
            x.clone(),
            weight.clone(),
            affine.clone(),
            residual.clone(),
            geometry,
            relu,
            SharedCache::default(),
        );
        let state = BlockState::<B> { x, weight, affine, out: out.clone(), residual, geometry, relu };
        let [x_node, weight_node, affine_node] = nodes;
        match residual_node {
            None => match ConvBlock.prepare::<C>([x_node, weight_node, affine_node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(state, out),
                OpsKind::UnTracked(prep) => prep.finish(out),
            },
            Some(node) => {
                let nodes = [x_node, weight_node, affine_node, node];
                match ConvBlock.prepare::<C>(nodes).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish(state, out),
                    OpsKind::UnTracked(prep) => prep.finish(out),
                }
            }
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
        relu: bool,
        peers: Peers,
    ) -> FloatTensor<Self> {
        let nodes = [y.node(), gamma.node(), beta.node(), moments.node()];
        let [y, gamma, beta, moments, factors] = [y, gamma, beta, moments, factors].map(|x| x.into_primitive());
        let state = [y.clone(), gamma.clone(), beta.clone(), moments.clone(), factors.clone()];
        let out = B::channels_last_normalize(y, gamma, beta, moments, factors, relu, peers.clone());
        match Normalize.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((state, relu, peers), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn channels_last_group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gamma.node(), beta.node()];
        let [x, gamma, beta] = [x, gamma, beta].map(|x| x.into_primitive());
        let state = [x.clone(), gamma.clone(), beta.clone()];
        let out = B::channels_last_group_norm(x, gamma, beta, options);
        match GroupNorm.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((state, options), out),
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

    fn channels_last_pyramid_roi_align(
        p2: FloatTensor<Self>,
        p3: FloatTensor<Self>,
        p4: FloatTensor<Self>,
        p5: FloatTensor<Self>,
        rois: Vec<PyramidRoi>,
        aligns: [RoiAlignConfig; 4],
    ) -> FloatTensor<Self> {
        let maps = [p2, p3, p4, p5];
        let nodes = maps.each_ref().map(|map| map.node());
        let shapes = maps.each_ref().map(|map| map.shape().dims());
        let [p2, p3, p4, p5] = maps.map(|map| map.into_primitive());
        let crops = B::channels_last_pyramid_roi_align(p2, p3, p4, p5, rois.clone(), aligns);
        match PyramidRoiAlign.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((rois, aligns, shapes), crops),
            OpsKind::UnTracked(prep) => prep.finish(crops),
        }
    }
}
