"""One training step of the four torchvision detectors here and in torchvision: losses and the gradients of every parameter.

    cargo build --release --workspace --example parity_step
    python tools/parity/training_step.py target/release/examples/parity_step DATA [--first 0] [--seeds 0 1 2] [--min-side 256] [--from-zero 4]

DATA is a folder in COCO's format (val.json, images/). Torch 2.11, torchvision 0.26, safetensors, pycocotools 2.0.

Weights are those of tools/parity/torchvision.py, with ReLUs moved `--from-zero`: a value within rounding of zero passes its gradient on one side and not on the other,
and torchvision's own gradients in f32 and f64 differ by more than the limit when values lie around zero (`--from-zero 0`). Both sides' distances from f64 are printed.
The batch, two images with COCO's objects, is resized by torchvision and handed over; both sides sample the anchors and proposals whose places among the candidates have the
lowest hashes. As in the recipes, stem and first stage are frozen but in `_v2`.

Of 2000 proposals some tie within rounding of their scores or of the IoU at which one suppresses another: torchvision's own are others when the image changes by 1e-7 of itself, and then
other ones are sampled. So proposals are compared as detections are, box by box, and the second stage of both sides, and of torchvision in f64, is run on torchvision's, in their order.

Exit code 1 if more than 0.5 % of an image's proposals have no partner within 0.05 px, not counting as many as torchvision's in f64 have none; if a loss differs by more than
1e-4 of itself or a parameter's gradient by more than 1e-3 of itself (L2) from torchvision's in f32; where those are further than that from torchvision's in f64, from the latter.
"""

import argparse
import copy
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This file's folder has a module of torchvision's name.
sys.path = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch
from pycocotools.coco import COCO
from safetensors.torch import load_file, save_file

MAX_LOSS_DIFFERENCE, MAX_GRADIENT_DIFFERENCE, MAX_PROPOSAL_DIFFERENCE_PX, MAX_OTHER_PROPOSALS = 1e-4, 1e-3, 0.05, 0.005
LOSSES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "roi_class",
    "loss_box_reg": "roi_box",
    "loss_mask": "roi_mask",
}
FROZEN = ("backbone.body.conv1", "backbone.body.layer1")

spec = importlib.util.spec_from_file_location("detections", HERE / "torchvision.py")
detections = importlib.util.module_from_spec(spec)
spec.loader.exec_module(detections)


def by_hash(count, **_):
    """In place of `torch.randperm`: numbers ordered by splitmix64's finalizer."""
    z = np.arange(count, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(np.argsort(z ^ (z >> np.uint64(31)), kind="stable"))


def target_of(coco, image):
    annotations = coco.loadAnns(coco.getAnnIds(image, iscrowd=False))
    boxes = torch.tensor([annotation["bbox"] for annotation in annotations])
    boxes[:, 2:] += boxes[:, :2]
    masks = torch.tensor(np.stack([coco.annToMask(annotation) for annotation in annotations]))
    return {"boxes": boxes, "labels": torch.tensor([annotation["category_id"] for annotation in annotations]), "masks": masks}


def batch_of(model, data, first):
    """Two images with objects, as torchvision resizes them."""
    coco = COCO(data / "val.json")
    ids = [image for image in coco.getImgIds() if coco.getAnnIds(image, iscrowd=False)][first : first + 2]
    pictures = [detections.read(data / "images" / coco.loadImgs(image)[0]["file_name"]) for image in ids]
    return pictures, model.transform(pictures, [target_of(coco, image) for image in ids])


def save_batch(path, pixels, sizes, targets, proposals):
    tensors = {"pixels": pixels.permute(0, 2, 3, 1).contiguous(), "sizes": torch.tensor(sizes).float()}
    for index, target in enumerate(targets):
        tensors |= {f"{key}_{index}": target[key].float().contiguous() for key in ("boxes", "labels", "masks")}
        tensors[f"proposals_{index}"] = proposals[index].float().contiguous()
    save_file(tensors, path)


def step(model, images, targets, is_v2, proposals=None):
    """The training branch of torchvision's `GeneralizedRCNN.forward` behind its transform, on the RPN's proposals or on these."""
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_v2 or not name.startswith(FROZEN))
    torch.randperm = by_hash
    features = model.backbone(images.tensors)
    own, losses = model.rpn(images, features, targets)
    proposals = own if proposals is None else [boxes.to(images.tensors.dtype) for boxes in proposals]
    losses |= model.roi_heads(features, proposals, images.image_sizes, targets)[1]
    sum(losses.values()).backward()
    return own, losses, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def in_f64(images, targets):
    doubled = copy.deepcopy(images)
    doubled.tensors = images.tensors.double()
    return doubled, [{**target, "boxes": target["boxes"].double()} for target in targets]


def distances(found, expected, has_batch_norms):
    """Of each parameter's gradient, by its own length.

    Where ReLUs are open, a batch norm behind another one takes away what the first one's bias adds, and the bias's gradient cancels: in f64 down to 1e-15 of the other
    gradients. Such a bias is measured by the length of its norm's weight and bias together."""

    def length(key):
        own = expected[key].double().norm()
        weight = key.removesuffix("bias") + "weight"
        if has_batch_norms and key.endswith("bias") and expected.get(weight, own).dim() == 1:
            return torch.hypot(own, expected[weight].double().norm())
        return own

    differences = {key: (found[key].double() - expected[key].double()).norm() for key in expected}
    # A level without samples has no gradient on either side; what is no number is as far as can be.
    relative = {key: (difference / length(key)).item() if difference != 0 else 0.0 for key, difference in differences.items()}
    return {key: float("inf") if math.isnan(value) else value for key, value in relative.items()}


def matched_proposals(found, expected):
    """The share of an image's proposals that have a partner of their own on the other side."""
    distances = (found[:, None] - expected[None]).abs().amax(2)
    nearest = distances.min(1)
    partners = set(nearest.indices[nearest.values <= MAX_PROPOSAL_DIFFERENCE_PX].tolist())
    return len(partners) / max(len(found), len(expected))


def ours_of(program, recipe, model, *parts_of_batch):
    with tempfile.TemporaryDirectory() as folder:
        weights, batch, out = (Path(folder) / file for file in ("weights.pth", "batch.safetensors", "out.safetensors"))
        torch.save(model.state_dict(), weights)
        save_batch(batch, *parts_of_batch)
        subprocess.run([program, recipe, weights, batch, out], check=True)
        return load_file(out)


def compare_proposals(ours, theirs, exact):
    shares = [matched_proposals(ours[f"proposals_{image}"], boxes) for image, boxes in enumerate(theirs)]
    own_shares = [matched_proposals(boxes.float(), other) for boxes, other in zip(exact, theirs)]
    for image, (share, own, boxes) in enumerate(zip(shares, own_shares, theirs)):
        print(f"  image {image}: {share:.2%} of {len(boxes)} proposals the same, of theirs in f64 {own:.2%}")
    return all(share >= own - MAX_OTHER_PROPOSALS for share, own in zip(shares, own_shares))


def compare_losses(ours, losses, names):
    is_good = True
    for theirs, loss in losses.items():
        expected, found = loss.item(), ours[f"loss.{names[theirs]}"].item()
        difference = abs(found - expected) / expected
        is_good &= difference <= MAX_LOSS_DIFFERENCE
        print(f"  {theirs:<17} {expected:.6f} {found:.6f} {difference:.1e}")
    return is_good


def compare_steps(title, ours, theirs, exact, names, has_batch_norms):
    """Whether our step is theirs. `theirs` and `exact`, theirs in f64, are proposals, losses and gradients; `names` are ours of their losses."""
    (proposals, losses, gradients), (exact_proposals, exact_losses, exact_gradients) = theirs, exact
    from_exact = [max(distances(found, exact_gradients, has_batch_norms).values()) for found in (ours, gradients)]
    print("  from theirs in f64: ours {:.1e} at most, theirs in f32 {:.1e}".format(*from_exact))
    if from_exact[1] > MAX_GRADIENT_DIFFERENCE:
        print("  theirs in f32 are further from f64 than the limit (ReLUs near zero): compared with f64")
        losses, gradients = exact_losses, exact_gradients
    differences = distances(ours, gradients, has_batch_norms)
    worst = sorted(differences, key=differences.get, reverse=True)[:3]
    results = [
        compare_proposals(ours, proposals, exact_proposals),
        compare_losses(ours, losses, names),
        differences[worst[0]] <= MAX_GRADIENT_DIFFERENCE,
    ]
    print(f"{title}: {len(gradients)} gradients, worst " + ", ".join(f"{key} {differences[key]:.1e}" for key in worst), flush=True)
    return all(results)


def compare(program, data, name, seed, args):
    pictures = [detections.read(data / "images" / file) for file in args.calibration]
    model = detections.random_model(name, seed, pictures, args.from_zero)
    model.transform.min_size, model.transform.max_size = (args.min_side,), args.min_side * 2
    _, batch = batch_of(model, data, args.first)
    is_v2 = name.endswith("_v2")
    theirs = step(copy.deepcopy(model), *batch, is_v2)
    exact = step(copy.deepcopy(model).double(), *in_f64(*batch), is_v2, theirs[0])
    images, targets = batch
    ours = ours_of(program, detections.RECIPES / f"{name}.toml", model, images.tensors, images.image_sizes, targets, theirs[0])
    return compare_steps(f"{name} seed {seed}", ours, theirs, exact, LOSSES, is_v2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("data", type=Path)
    parser.add_argument("--first", type=int, default=0, help="skips so many images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=detections.MODELS, default=list(detections.MODELS))
    parser.add_argument("--min-side", type=int, default=256)
    parser.add_argument("--from-zero", type=float, default=4.0, help="standard deviations between zero and a ReLU's input")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.calibration = [image["file_name"] for image in json.loads((args.data / "val.json").read_text())["images"][:2]]
    results = [compare(args.program, args.data, name, seed, args) for name in args.models for seed in args.seeds]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
