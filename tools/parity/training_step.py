"""One training step of `maskrcnn_resnet50_fpn` here and in torchvision: losses and the gradients of every parameter.

    cargo build --release --workspace --example parity_step
    python tools/parity/training_step.py target/release/examples/parity_step DATA [--first 0] [--seeds 0 1] [--min-side 320]

DATA is a folder in COCO's format (val.json, images/). Torch 2.11, torchvision 0.26, safetensors, pycocotools 2.0.

Weights are those of tools/parity/torchvision.py. The batch, two images with COCO's objects, is resized by torchvision and handed over; both sides sample the
anchors and proposals whose places among the candidates have the lowest hashes. As in the recipe, stem and first stage are frozen.
Exit code 1 if a loss differs by more than 1e-4 of itself or a parameter's gradient by more than 1e-3 of itself (L2).
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This file's folder has a module of torchvision's name.
sys.path.pop(0)

import numpy as np
import torch
from pycocotools.coco import COCO
from safetensors.torch import load_file, save_file

MAX_LOSS_DIFFERENCE, MAX_GRADIENT_DIFFERENCE = 1e-4, 1e-3
NAME = "mask_rcnn_r50_fpn"
LOSSES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "roi_class",
    "loss_box_reg": "roi_box",
    "loss_mask": "roi_mask",
}
# Of thousands of proposals two always tie within rounding, change places, and others are sampled from there on.
PRE_NMS, POST_NMS, SAMPLED = 200, 120, 64
SETTINGS = [
    f"model.rpn.train_proposals.pre_nms_top_n={PRE_NMS}",
    f"model.rpn.train_proposals.post_nms_top_n={POST_NMS}",
    f"model.box_head.batch_size_per_image={SAMPLED}",
]
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


def save_batch(path, images, targets):
    tensors = {"pixels": images.tensors.permute(0, 2, 3, 1).contiguous(), "sizes": torch.tensor(images.image_sizes).float()}
    for index, target in enumerate(targets):
        tensors |= {f"{key}_{index}": target[key].float().contiguous() for key in ("boxes", "labels", "masks")}
    save_file(tensors, path)


def step(model, images, targets):
    """The training branch of torchvision's `GeneralizedRCNN.forward` behind its transform."""
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    torch.randperm = by_hash
    model.rpn._pre_nms_top_n["training"], model.rpn._post_nms_top_n["training"] = PRE_NMS, POST_NMS
    model.roi_heads.fg_bg_sampler.batch_size_per_image = SAMPLED
    features = model.backbone(images.tensors)
    proposals, losses = model.rpn(images, features, targets)
    losses |= model.roi_heads(features, proposals, images.image_sizes, targets)[1]
    sum(losses.values()).backward()
    return losses, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def compare(program, data, seed, args):
    model = detections.random_model(NAME, seed, [detections.read(data / "images" / name) for name in args.calibration])
    model.transform.min_size, model.transform.max_size = (args.min_side,), args.min_side * 2
    _, (images, targets) = batch_of(model, data, args.first)
    with tempfile.TemporaryDirectory() as folder:
        weights, batch, out = (Path(folder) / name for name in ("weights.pth", "batch.safetensors", "out.safetensors"))
        torch.save(model.state_dict(), weights)
        save_batch(batch, images, targets)
        recipe = detections.RECIPES / f"{NAME}.toml"
        subprocess.run([program, recipe, weights, batch, out, *SETTINGS], check=True)
        ours = load_file(out)
    losses, gradients = step(model, images, targets)
    is_good = True
    for theirs, name in LOSSES.items():
        expected, found = losses[theirs].item(), ours[f"loss.{name}"].item()
        difference = abs(found - expected) / expected
        is_good &= difference <= MAX_LOSS_DIFFERENCE
        print(f"  {theirs:<17} {expected:.6f} {found:.6f} {difference:.1e}")
    differences = {name: ((ours[name] - gradient).norm() / gradient.norm()).item() for name, gradient in gradients.items()}
    worst = sorted(differences, key=differences.get, reverse=True)[:3]
    is_good &= differences[worst[0]] <= MAX_GRADIENT_DIFFERENCE
    print(f"seed {seed}: {len(gradients)} gradients, worst " + ", ".join(f"{name} {differences[name]:.1e}" for name in worst), flush=True)
    return is_good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("data", type=Path)
    parser.add_argument("--first", type=int, default=0, help="skips so many images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--min-side", type=int, default=320)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.calibration = [image["file_name"] for image in json.loads((args.data / "val.json").read_text())["images"][:2]]
    results = [compare(args.program, args.data, seed, args) for seed in args.seeds]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
