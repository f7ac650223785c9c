"""One training step of mmdetection 0.6.2 and of ours under `conventions = "released"`: losses and the gradients of every parameter.

    cargo build --release --workspace --example parity_step
    python tools/parity/mmdetection_step.py target/release/examples/parity_step DATA SOURCES [--first 0] [--seeds 0] [--min-side 256] [--from-zero 4]

DATA and SOURCES, and what stands in for operations that run on GPUs only: tools/parity/mmdetection.py; what is compared, how, and the limits: tools/parity/training_step.py.

mmdetection reads, resizes, normalises and pads the images, its data set says what their objects are and resizes the masks; the batch is handed over. Its RPN, assigners, samplers, heads and
losses are run as they are, except that its random sampler takes the candidates whose places among all have the lowest hashes, as ours does. Boxes are handed over as the areas that they
cover: mmdetection's end with their last pixel. In place of SyncBN is BN, which is the same in one process and runs on CPUs.

Exit code 1 if a limit is not met, or if a parameter trains on one side only.
"""

import argparse
import copy
import importlib.util
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This file's folder has a module of torchvision's name.
sys.path = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

import torch


def neighbour(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mmdetection, training_step = neighbour("mmdetection"), neighbour("training_step")

LOSSES = {
    "loss_rpn_cls": "rpn_objectness",
    "loss_rpn_bbox": "rpn_box",
    "loss_cls": "roi_class",
    "loss_bbox": "roi_box",
    "loss_mask": "roi_mask",
}
NORMS = {**mmdetection.NORMS, "syncbn": {"type": "BN"}}


def assigner(positive, negative):
    return {"type": "MaxIoUAssigner", "pos_iou_thr": positive, "neg_iou_thr": negative, "min_pos_iou": negative, "ignore_iof_thr": -1}


def sampler(number, fraction, adds_gt):
    return {"type": "RandomSampler", "num": number, "pos_fraction": fraction, "neg_pos_ub": -1, "add_gt_as_proposals": adds_gt}


# As released: proposals are those of the test's configuration.
TRAIN_CONFIG = {
    "rpn": {"assigner": assigner(0.7, 0.3), "sampler": sampler(256, 0.5, False), "allowed_border": 0, "pos_weight": -1, "debug": False},
    "rcnn": {"assigner": assigner(0.5, 0.5), "sampler": sampler(512, 0.25, True), "mask_size": 28, "pos_weight": -1, "debug": False},
}


def areas(boxes):
    """Of boxes that end with their last pixel."""
    return boxes[:, :4] + boxes.new_tensor([0, 0, 1, 1])


def batch_of(dataset, first):
    """Two images with objects, as `MMDataParallel` hands them to the detector."""
    from mmcv.parallel import collate

    with_objects = [index for index in range(len(dataset)) if len(dataset.get_ann_info(index)["bboxes"])][first : first + 2]
    batch = collate([dataset[index] for index in with_objects], samples_per_gpu=2)
    return {key: parts.data[0] for key, parts in batch.items()}


def targets_of(batch):
    """What training_step.save_batch writes: masks of the images without padding, one for each box."""
    for image, meta in enumerate(batch["img_meta"]):
        height, width, _ = meta["img_shape"]
        boxes = areas(batch["gt_bboxes"][image])
        # mmdetection takes the mask at a box's place; behind the last box are masks of crowds, or of the objects before them.
        masks = torch.from_numpy(batch["gt_masks"][image])[: len(boxes), :height, :width]
        yield {"boxes": boxes, "labels": batch["gt_labels"][image], "masks": masks}


def step(model, batch, proposals=None):
    """mmdetection's `forward_train`, on the RPN's proposals or on these."""
    model.train()
    # It asks for a GPU's tensor of four bytes, for whatever features.
    torch.cuda.FloatTensor = torch.DoubleTensor if batch["img"].dtype == torch.float64 else torch.FloatTensor
    get_bboxes, own = model.rpn_head.get_bboxes, []

    def exchanged(*inputs):
        own.extend(get_bboxes(*inputs))
        return own if proposals is None else proposals

    model.rpn_head.get_bboxes = exchanged
    losses = model(return_loss=True, **{key: value for key, value in batch.items() if model.with_mask or key != "gt_masks"})
    torch.cuda.FloatTensor = torch.FloatTensor
    losses = {key: sum(loss) if isinstance(loss, list) else loss for key, loss in losses.items() if key in LOSSES}
    sum(losses.values()).backward()
    return own, losses, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def with_areas(proposals, losses, gradients):
    return [areas(boxes) for boxes in proposals], losses, gradients


def trained_here_alone(ours, gradients):
    others = ("loss.", "proposals_")
    return [key for key, gradient in ours.items() if key not in gradients and not key.startswith(others) and gradient.any()]


def compare(program, name, seed, sources, args):
    ConfigDict, CocoDataset, build_detector = sources
    scale = 2 * args.min_side, args.min_side
    for_calibration = mmdetection.dataset_of(CocoDataset, args.data, scale, with_mask=False, test_mode=True)
    config = ConfigDict({**mmdetection.config_of(name, NORMS), "train_cfg": TRAIN_CONFIG})
    model = mmdetection.random_model(build_detector, config, seed, for_calibration, args.from_zero)
    batch = batch_of(mmdetection.dataset_of(CocoDataset, args.data, scale, flip_ratio=0, with_crowd=True), args.first)
    theirs = step(copy.deepcopy(model), batch)
    exact = step(copy.deepcopy(model).double(), {**batch, "img": batch["img"].double()}, theirs[0])
    sizes = [meta["img_shape"][:2] for meta in batch["img_meta"]]
    theirs, exact = with_areas(*theirs), with_areas(*exact)
    recipe = mmdetection.detections.RECIPES.parent / f"{name}.toml"
    ours = training_step.ours_of(program, recipe, model, batch["img"], sizes, list(targets_of(batch)), theirs[0])
    alone = trained_here_alone(ours, theirs[2])
    print("".join(f"  {key} trains here alone\n" for key in alone), end="")
    is_good = training_step.compare_steps(f"{name} seed {seed}", ours, theirs, exact, LOSSES, NORMS["syncbn"] == NORMS[name.rpartition("_")[2]])
    return is_good and not alone


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("data", type=Path)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--first", type=int, default=0, help="skips so many images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", choices=mmdetection.MODELS, default=mmdetection.MODELS)
    parser.add_argument("--min-side", type=int, default=256)
    parser.add_argument("--from-zero", type=float, default=4.0, help="standard deviations between zero and a ReLU's input")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sources = mmdetection.load_mmdetection(args.sources)
    from mmdet.core.bbox.samplers import RandomSampler

    RandomSampler.random_choice = staticmethod(lambda gallery, number: gallery[training_step.by_hash(len(gallery))[:number]])
    results = [compare(args.program, name, seed, sources, args) for name in args.models for seed in args.seeds]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
