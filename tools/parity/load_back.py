"""Loads what `cbn convert --to torchvision` wrote into torchvision, strictly, and compares what both find.

    python tools/parity/load_back.py CBN RECIPE CHECKPOINT DATA

CBN is the built program, DATA a folder with val.json and images/. Torch 2.11, torchvision 0.26, safetensors 0.8.

The recipe must be for a torchvision-like detector: ROI Align not aligned, `two_fc` or `four_conv_one_fc` head. Its
`min_side_px` must be the shorter side of every image: then nothing is resized, and the networks alone are compared. Exit code 1
if a detection has no partner.
"""

import json
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

# This file's folder has a module of torchvision's name.
sys.path = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

MAX_BOX_DIFFERENCE_PX, MAX_SCORE_DIFFERENCE = 0.05, 1e-4


def build(plan):
    """The plan's detector out of torchvision's parts."""
    model, transform = plan["model"], plan["transform"]
    channels, classes = model["neck"]["channels"], model["num_classes"] + 1

    def norm_of(part):
        return None if part["norm"]["kind"] == "identity" else nn.BatchNorm2d

    depth = {"r18": resnet.resnet18, "r34": resnet.resnet34, "r50": resnet.resnet50, "r101": resnet.resnet101}
    body = depth[model["backbone"]["depth"]](weights=None)
    widths = [body.fc.in_features // 2**i for i in (3, 2, 1, 0)]
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(body, layers, widths, channels, norm_layer=norm_of(model["neck"]))
    rpn, box, mask = model["rpn"], model["box_head"], model["mask_head"]
    anchors = AnchorGenerator(
        tuple(tuple(level) for level in rpn["anchors"]["sizes"]), (tuple(rpn["anchors"]["aspect_ratios"]),) * 5
    )
    levels = [str(i) for i in range(4)]
    side = box["pool"]["side"]
    if box["head"] == "two_fc":
        head = TwoMLPHead(channels * side * side, box["fc_dim"])
    else:
        head = FastRCNNConvFCHead((channels, side, side), [channels] * 4, [box["fc_dim"]], norm_layer=norm_of(box))
    parts = {
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(channels, anchors.num_anchors_per_location()[0]),
        "box_roi_pool": MultiScaleRoIAlign(levels, side, box["pool"]["sampling_ratio"]),
        "box_head": head,
        "box_predictor": FastRCNNPredictor(box["fc_dim"], classes),
        "rpn_pre_nms_top_n_test": rpn["test_proposals"]["pre_nms_top_n"],
        "rpn_post_nms_top_n_test": rpn["test_proposals"]["post_nms_top_n"],
        "rpn_nms_thresh": rpn["nms_threshold"],
        "box_score_thresh": box["score_threshold"],
        "box_nms_thresh": box["nms_threshold"],
        "box_detections_per_img": box["max_detections"],
        "bbox_reg_weights": box["box_weights"],
        "min_size": transform["min_side_px"][-1],
        "max_size": transform["max_side_px"],
        "image_mean": [value / 255 for value in transform["pixel_mean"]],
        "image_std": [value / 255 for value in transform["pixel_std"]],
        # Of 64 pixels, so that torchvision's P6 has the stride that it is meant to have.
        "size_divisible": 64,
    }
    if mask is None:
        return FasterRCNN(backbone, **parts)
    width = mask["channels"]
    return MaskRCNN(
        backbone,
        mask_roi_pool=MultiScaleRoIAlign(levels, mask["pool"]["side"], mask["pool"]["sampling_ratio"]),
        mask_head=MaskRCNNHeads(channels, [width] * mask["num_convs"], 1, norm_layer=norm_of(mask)),
        mask_predictor=MaskRCNNPredictor(width, width, classes),
        **parts,
    )


def detections_of(model, dataset, data):
    labels = [category["id"] for category in dataset["categories"]]
    found = []
    for image in dataset["images"]:
        pixels = np.asarray(Image.open(data / "images" / image["file_name"]).convert("RGB"))
        with torch.inference_mode():
            (result,) = model([torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255])
        for box, score, label in zip(result["boxes"].tolist(), result["scores"].tolist(), result["labels"].tolist()):
            box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            found.append({"image_id": image["id"], "category_id": labels[label - 1], "bbox": box, "score": score})
    return found


def is_alike(a, b):
    boxes = max(abs(x - y) for x, y in zip(a["bbox"], b["bbox"]))
    return boxes <= MAX_BOX_DIFFERENCE_PX and abs(a["score"] - b["score"]) <= MAX_SCORE_DIFFERENCE


def without_partner(ours, theirs):
    """Detections of one side that the other has not; each has one partner at most."""
    left = OrderedDict()
    for detection in theirs:
        left.setdefault((detection["image_id"], detection["category_id"]), []).append(detection)
    alone = []
    for detection in ours:
        candidates = left.get((detection["image_id"], detection["category_id"]), [])
        partner = next((i for i, candidate in enumerate(candidates) if is_alike(detection, candidate)), None)
        if partner is None:
            alone.append(detection)
        else:
            candidates.pop(partner)
    return alone, [detection for candidates in left.values() for detection in candidates]


def main(program, recipe, checkpoint, data):
    torch.set_num_threads(1)
    data = Path(data)
    with tempfile.TemporaryDirectory() as folder:
        weights, found = Path(folder, "torchvision.safetensors"), Path(folder, "found.json")
        subprocess.run([program, "convert", checkpoint, weights, "--to", "torchvision"], check=True)
        subprocess.run([program, "test", recipe, checkpoint, "--data", data, "--out", found, "--json"], check=True, stdout=subprocess.DEVNULL)
        ours, state = json.loads(found.read_text()), load_file(weights)
    plan = json.loads(subprocess.run([program, "recipe", "show", recipe, "--data", data], check=True, capture_output=True).stdout)
    model = build(plan).eval()
    # Counters of batches, which no inference reads and no file of ours has.
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    model.load_state_dict(state | counters, strict=True)
    theirs = detections_of(model, json.loads((data / "val.json").read_text()), data)
    alone, missing = without_partner(ours, theirs)
    print(f"ours {len(ours)}, torchvision's {len(theirs)}, without a partner {len(alone)} and {len(missing)}")
    sys.exit(bool(alone or missing))


if __name__ == "__main__":
    main(*sys.argv[1:])
