"""The four torchvision detectors against `cbn test` with the same weights on real images, from file to file.

    python tools/parity/torchvision.py CBN DATA [--images 6] [--seeds 0 1] [--models mask_rcnn_r50_fpn ...]

CBN is the built program, DATA a folder in COCO's format (val.json, images/). Torch 2.11, torchvision 0.26, pycocotools 2.0.

Weights are random, of torchvision's 91 classes, and scaled so that scores spread and as much is found as by a trained model. Both sides read the image files themselves.
AP is computed by pycocotools on both outputs, against annotations that are made of a third of torchvision's detections, moved a little: against COCO's own,
random weights have an AP of 0 on either side. Exit code 1 if a limit below is not met.

A mask below the limit gets a second look, and is printed. torchvision cuts boxes to whole pixels before it pastes: one that ends 1e-4 pixels before a whole one there and behind it
here is a pixel narrower; and a probability within rounding of one half falls either way, which in a mask of fewer than 1000 pixels is more than the limit. So torchvision's own
28 x 28 probabilities are pasted by torchvision into our box, pixels that are then nearer to one half than the scores' limit are left out, and what is left must have
the IoU. Errors of our mask head or paste do not pass this. The AP of masks is that of both sides' other detections.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# This file's folder has a module of torchvision's name: this one.
sys.path = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torchvision.models import detection
from torchvision.models.detection import transform
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import FrozenBatchNorm2d

MAX_BOX_DIFFERENCE_PX, MAX_SCORE_DIFFERENCE, MIN_MASK_IOU, MAX_AP_DIFFERENCE = 0.05, 1e-4, 0.999, 1e-3
# Near-ties at the limit of 100 detections or of NMS may fall either way.
MIN_MATCHED = 0.995
# Boxes of one class that overlap so much suppress each other.
NMS_IOU = 0.5
RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "torchvision"
MODELS = {
    "faster_rcnn_r50_fpn": detection.fasterrcnn_resnet50_fpn,
    "mask_rcnn_r50_fpn": detection.maskrcnn_resnet50_fpn,
    "faster_rcnn_r50_fpn_v2": detection.fasterrcnn_resnet50_fpn_v2,
    "mask_rcnn_r50_fpn_v2": detection.maskrcnn_resnet50_fpn_v2,
}
# What their layers' statistics are taken of.
MAX_CALIBRATION_IMAGES = 4
# Of logits and deltas; other layers' outputs have one of 1.
OUTPUT_DEVIATIONS = {"cls_logits": 1.5, "cls_score": 1.2, "bbox_pred": 0.3, "mask_fcn_logits": 2.0}
# The same layers' names in mmdetection and in detectron2.
OUTPUT_DEVIATIONS |= {"rpn_cls": 1.5, "fc_cls": 1.2, "rpn_reg": 0.3, "fc_reg": 0.3, "conv_logits": 2.0}
OUTPUT_DEVIATIONS |= {"objectness_logits": 1.5, "anchor_deltas": 0.3, "predictor": 2.0}
# Norms at the end of a residual branch and of a shortcut, which add up; detectron2's names stand behind.
BRANCH_ENDS = re.compile(r"bn3$|res\d\.\d+\.conv3\.norm$")
SHORTCUT_ENDS = re.compile(r"downsample\.1$|shortcut\.norm$")


def read(path):
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def spread_outputs(layer, deviation, distance):
    """Centres a layer's channels and gives its outputs this standard deviation, at the layer's next call; then `distance` moves them."""

    def hook(module, inputs, output):
        handle.remove()
        others = [axis for axis in range(output.dim()) if axis != 1]
        mean = output.mean(others, keepdim=True)
        factor = deviation / (output - mean).std()
        module.weight.data *= factor
        module.bias.data = (module.bias.data - mean.flatten()) * factor + distance
        return module(*inputs)

    handle = layer.register_forward_hook(hook)


def from_zero(deviation, channels, distance, shut=0.125):
    """Means of a layer's channels, this many of their standard deviations above zero, or below it for one in eight."""
    if distance == 0:
        return torch.zeros(channels)
    return torch.where(torch.rand(channels) < shut, -distance, distance) * deviation


def randomize(model, distance):
    """Random weights of a well-conditioned network, once it has seen images. `distance`: how many standard deviations the values before a ReLU lie from zero on average.

    No layer's outputs have a part in common to all places and regions: the last layers, whose scores must spread, would scale it away and with it the rounding
    of all layers before up, a hundredfold. Trained networks don't. And ReLUs are open more often than not: with values around zero, a random network of this depth is chaotic,
    and torchvision's own scores in f32 are up to 7e-5 from those in f64 (3e-6 with a distance of 1)."""
    for key, module in model.named_modules():
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)):
            # Sixteen residual branches add up; at their full weight the activations would grow with each.
            nn.init.uniform_(module.weight, *((0.2, 0.6) if BRANCH_ENDS.search(key) else (0.6, 1.4)))
            nn.init.normal_(module.bias, std=0.1)
            # What residual branches add up must not meet at zero again.
            shut = 0.0 if BRANCH_ENDS.search(key) or SHORTCUT_ENDS.search(key) else 0.125
            module.bias.data += from_zero(module.weight.data, len(module.bias), distance, shut)
            # The images' own statistics become the running ones.
            module.momentum = 1.0
            module.train()
            continue
        if isinstance(module, nn.Conv2d):
            # Maps as smooth as trained networks': white noise would turn a box's last digits into another score.
            mean = module.weight.data.mean((2, 3), keepdim=True)
            module.weight.data = 0.5 * module.weight.data + 0.5 * mean * module.kernel_size[0]
        if getattr(module, "bias", None) is not None:
            deviation = OUTPUT_DEVIATIONS.get(key.rpartition(".")[2], 1.0)
            before_relu = "fpn" not in key and key.rpartition(".")[2] not in OUTPUT_DEVIATIONS
            spread_outputs(module, deviation, from_zero(deviation, len(module.bias), distance * before_relu))


def random_model(name, seed, images, distance=1.0):
    torch.manual_seed(seed)
    model = MODELS[name](weights=None, weights_backbone=None, num_classes=91).eval()
    randomize(model, distance)
    with torch.no_grad():
        model(images)
    if not name.endswith("_v2"):
        freeze_norms(model)
    return model.eval()


def freeze_norms(model):
    """The backbone as torchvision makes it for the COCO_V1 weights of these models, with an eps of 0."""
    for key, norm in list(model.named_modules()):
        if isinstance(norm, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(norm.num_features, eps=0.0)
            frozen.load_state_dict(norm.state_dict())
            parent, _, child = key.rpartition(".")
            setattr(model.get_submodule(parent), child, frozen)


def encode(mask):
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


# Masks come as they leave the network, and are pasted here.
transform.paste_masks_in_image = lambda masks, boxes, size: masks


def paste(probabilities, bbox, size):
    x, y, width, height = bbox
    box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)
    return paste_masks_in_image(probabilities[None, None], box, size)[0, 0].numpy()


def detections_of(model, dataset, data):
    ids = {category["id"] for category in dataset["categories"]}
    found = []
    for image in dataset["images"]:
        with torch.inference_mode():
            (result,) = model([read(data / "images" / image["file_name"])])
        masks = result["masks"][:, 0] if "masks" in result else None
        for index, (x1, y1, x2, y2) in enumerate(result["boxes"].double().tolist()):
            label = int(result["labels"][index])
            # Ten of torchvision's labels are no category of COCO.
            if label in ids:
                detection = {"image_id": image["id"], "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                detection["score"] = float(result["scores"][index])
                if masks is not None:
                    size = image["height"], image["width"]
                    detection |= {"probabilities": masks[index], "segmentation": encode(paste(masks[index], detection["bbox"], size) >= 0.5)}
                found.append(detection)
    return found


class Comparison:
    """Partners of both sides' detections; each has one at most. `paste` lays their mask's probabilities into a box of an image of a size."""

    def __init__(self, ours, theirs, paste=paste):
        self.paste = paste
        self.boxes, self.scores, self.mask_ious, self.matched, self.same_masks, self.looked_at = [0.0], [0.0], [], 0, 0, []
        self.total = max(len(ours), len(theirs))
        left, alone = {}, []
        for found in theirs:
            left.setdefault((found["image_id"], found["category_id"]), []).append(found)
        for found in ours:
            candidates = left.get((found["image_id"], found["category_id"]), [])
            partner = min(candidates, key=lambda other: self.distance(found, other), default=None)
            if partner is not None and self.distance(found, partner) <= 1:
                candidates.remove(partner)
                self.add(found, partner)
            else:
                alone.append(found)
        self.swapped = [tie for found in alone if (tie := self.tie(found, left.get((found["image_id"], found["category_id"]), [])))]

    def tie(self, found, candidates):
        """A detection of theirs that ours suppresses and that suppresses ours, with the same score but for rounding: NMS keeps the one whose last digits are higher."""
        for other in candidates:
            _, score = self.differences(found, other)
            if score <= MAX_SCORE_DIFFERENCE and rle.iou([found["bbox"]], [other["bbox"]], [0])[0, 0] >= NMS_IOU:
                candidates.remove(other)
                return f"{found['bbox']} here, {other['bbox']} there: scores {found['score']:.7f} and {other['score']:.7f}"
        return None

    @staticmethod
    def differences(a, b):
        (ax, ay, aw, ah), (bx, by, bw, bh) = a["bbox"], b["bbox"]
        edges = (ax - bx, ay - by, ax + aw - bx - bw, ay + ah - by - bh)
        return max(map(abs, edges)), abs(a["score"] - b["score"])

    def distance(self, a, b):
        box, score = self.differences(a, b)
        return max(box / MAX_BOX_DIFFERENCE_PX, score / MAX_SCORE_DIFFERENCE)

    def add(self, ours, theirs):
        box, score = self.differences(ours, theirs)
        self.boxes.append(box)
        self.scores.append(score)
        self.matched += 1
        if "segmentation" in theirs:
            iou = rle.iou([ours["segmentation"]], [theirs["segmentation"]], [0])[0, 0]
            is_same = ours["segmentation"]["counts"] == theirs["segmentation"]["counts"]
            self.same_masks += is_same
            iou = 1.0 if is_same else float(iou)
            if iou < MIN_MASK_IOU:
                decided, undecided = self.decided_iou(ours, theirs)
                ours["is_decided"] = theirs["is_decided"] = False
                self.looked_at.append(f"IoU {iou:.5f}, {rle.area(theirs['segmentation'])} pixels: {decided:.5f} without {undecided}")
                iou = decided
            self.mask_ious.append(iou)

    def decided_iou(self, ours, theirs):
        """The IoU with their mask pasted into our box, and how many pixels near one half are left out."""
        found = rle.decode(ours["segmentation"]).astype(bool)
        expected = self.paste(theirs["probabilities"], ours["bbox"], found.shape)
        undecided = np.abs(expected - 0.5) < MAX_SCORE_DIFFERENCE
        found, expected = (mask & ~undecided for mask in (found, expected >= 0.5))
        return (found & expected).sum() / max((found | expected).sum(), 1), undecided.sum()

    def is_good(self):
        # One tie decided otherwise is more than the limit in an image with less than 200 detections.
        few = len(self.swapped) <= max((1 - MIN_MATCHED) * self.total, 1)
        enough = self.matched + len(self.swapped) >= MIN_MATCHED * self.total > 0
        return few and enough and min(self.mask_ious, default=1.0) >= MIN_MASK_IOU

    def __str__(self):
        text = f"{self.matched} of {self.total} matched, boxes {max(self.boxes):.1e} px, scores {max(self.scores):.1e}"
        if self.mask_ious:
            text += f", masks {self.same_masks} of {len(self.mask_ious)} identical, lowest IoU {min(self.mask_ious):.5f}"
            text += "".join(f"\n    {mask}" for mask in self.looked_at)
        return text + "".join(f"\n    tie decided otherwise: {tie}" for tie in self.swapped)


def annotations_of(found, dataset):
    """A third of the detections, moved a little."""
    draw = random.Random(0)
    annotations = []
    for detection in found[::3]:
        x, y, width, height = detection["bbox"]
        dx, dy = (round(draw.gauss(0, 0.08) * side) for side in (width, height))
        annotation = {"id": len(annotations) + 1, "iscrowd": 0, "area": width * height, "bbox": [x + dx, y + dy, width, height]}
        annotation |= {key: detection[key] for key in ("image_id", "category_id")}
        if "segmentation" in detection:
            annotation["segmentation"] = encode(np.roll(rle.decode(detection["segmentation"]), (dy, dx), (0, 1)))
        annotations.append(annotation)
    return {**dataset, "annotations": annotations}


def average_precision(annotations, found, kind):
    truth = COCO()
    # Results are told apart from boxes by their keys.
    found = [{key: value for key, value in detection.items() if kind == "bbox" or key != "bbox"} for detection in found]
    if kind == "segm":
        found = [detection for detection in found if detection.get("is_decided", True)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = annotations
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def run(command):
    """Its bars and scores are of no interest as long as it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)


def compare(program, name, seed, dataset, folder, options):
    first = dataset["images"][:MAX_CALIBRATION_IMAGES]
    model = random_model(name, seed, [read(folder / "images" / image["file_name"]) for image in first])
    weights, output = folder / f"{name}_{seed}.pth", folder / "found.json"
    torch.save(model.state_dict(), weights)
    command = [program, "test", RECIPES / f"{name}.toml", weights, "--data", folder, "--out", output, "--json", *options]
    run(command)
    weights.unlink()
    ours, theirs = json.loads(output.read_text()), detections_of(model, dataset, folder)
    is_good = True
    for image in dataset["images"]:
        of_image = [[found for found in side if found["image_id"] == image["id"]] for side in (ours, theirs)]
        comparison = Comparison(*of_image)
        if not comparison.is_good():
            is_good = False
            print(f"  image {image['id']}: {comparison}")
    comparison = Comparison(ours, theirs)
    is_good &= comparison.matched >= MIN_MATCHED * comparison.total
    print(f"{name} seed {seed}, {len(dataset['images'])} images: {comparison}")
    annotations = annotations_of(theirs, dataset)
    for kind in ["bbox", "segm"] if "mask" in name else ["bbox"]:
        ap = [average_precision(annotations, found, kind) for found in (ours, theirs)]
        is_good &= abs(ap[0] - ap[1]) <= MAX_AP_DIFFERENCE
        print(f"  {kind} AP {ap[0]:.4f} and {ap[1]:.4f}", flush=True)
    return is_good


@contextlib.contextmanager
def folder_of(data, first, count, is_taken=lambda image: True):
    """A data set's folder with `val.json` of `count` of its images that are taken, and what that says."""
    dataset = json.loads((data / "val.json").read_text())
    dataset["images"] = [image for image in dataset["images"] if is_taken(image)][first:][:count]
    ids = {image["id"] for image in dataset["images"]}
    dataset["annotations"] = [annotation for annotation in dataset["annotations"] if annotation["image_id"] in ids]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "val.json").write_text(json.dumps(dataset))
        os.symlink((data / "images").absolute(), folder / "images")
        yield folder, dataset


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--first", type=int, default=0, help="skips so many images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--set", nargs="+", default=[], help="settings of the recipe to change")
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = [option for setting in args.set for option in ("--set", setting)]
    is_good = True
    with folder_of(args.data, args.first, args.images) as (folder, dataset):
        for name in args.models:
            for seed in args.seeds:
                is_good &= compare(args.program, name, seed, dataset, folder, options)
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
