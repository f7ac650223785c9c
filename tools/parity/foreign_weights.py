"""One Mask R-CNN in the names of four libraries and in every container: `cbn test` must find what torchvision finds with it.

    python tools/parity/foreign_weights.py CBN

CBN is the built program. Torch 2.11, torchvision 0.26. The names are written down here a second time, apart from those in the
program. Weights are random, but norms and class scores are set so that detections spread. Images are random as well and need
no resizing, so that the networks alone are compared.

The detectron2 files are of a network in Caffe's style: BGR pixels that are not divided, stride in the first 1x1 convolution of a bottleneck.
"""

import json
import pickle
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import load_back

NUM_CLASSES, NUM_IMAGES, SIDE = 5, 3, 128

RECIPE = """
description = "a small Mask R-CNN as other libraries have it"
[model.backbone]
depth = "r50"
stride_in_1x1 = {stride_in_1x1}
[model.neck]
channels = 32
[model.rpn]
anchors = {{ sizes = [[8], [16], [32], [64], [128]], aspect_ratios = [0.5, 1.0, 2.0] }}
test_proposals = {{ pre_nms_top_n = 200, post_nms_top_n = 100 }}
[model.box_head]
head = "{head}"
fc_dim = 64
[model.mask_head]
channels = 32
[norm]
backbone = "bn"
neck = "none"
box_head = "none"
mask_head = "none"
[data.transform]
min_side_px = [{side}]
max_side_px = {side}
[train]
length = {{ iterations = 1 }}
batch_size = 1
learning_rate = 0.01
"""

# torchvision's name, mmdetection's; the rows of class heads are moved below.
MMDET = [
    (r"backbone\.body\.(.*)", r"backbone.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.(.*)", r"neck.lateral_convs.\1.conv.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.(.*)", r"neck.fpn_convs.\1.conv.\2"),
    (r"rpn\.head\.conv\.0\.0\.(.*)", r"rpn_head.rpn_conv.\1"),
    (r"rpn\.head\.cls_logits\.(.*)", r"rpn_head.rpn_cls.\1"),
    (r"rpn\.head\.bbox_pred\.(.*)", r"rpn_head.rpn_reg.\1"),
    (r"roi_heads\.box_head\.([0-3])\.0\.(.*)", r"bbox_head.shared_convs.\1.conv.\2"),
    (r"roi_heads\.box_head\.5\.(.*)", r"bbox_head.shared_fcs.0.\1"),
    (r"roi_heads\.box_head\.fc6\.(.*)", r"bbox_head.shared_fcs.0.\1"),
    (r"roi_heads\.box_head\.fc7\.(.*)", r"bbox_head.shared_fcs.1.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.*)", r"bbox_head.fc_cls.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.*)", r"bbox_head.fc_reg.\1"),
    (r"roi_heads\.mask_head\.(\d)\.0\.(.*)", r"mask_head.convs.\1.conv.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.*)", r"mask_head.upsample.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.*)", r"mask_head.conv_logits.\1"),
]


def mmdet_name(name):
    for pattern, replacement in MMDET:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise KeyError(name)


def mmdet2_name(name):
    name = mmdet_name(name)
    return f"roi_head.{name}" if name.startswith(("bbox_head", "mask_head")) else name


def detectron2_name(name):
    name = mmdet_name(name)
    name = re.sub(r"^backbone\.(conv1|bn1)\.", lambda m: f"backbone.bottom_up.stem.conv1{'.norm' if m[1] == 'bn1' else ''}.", name)
    name = re.sub(
        r"^backbone\.layer(\d)\.(\d+)\.(conv|bn)(\d)\.",
        lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.conv{m[4]}{'.norm' if m[3] == 'bn' else ''}.",
        name,
    )
    name = re.sub(
        r"^backbone\.layer(\d)\.(\d+)\.downsample\.(\d)\.",
        lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.shortcut{'.norm' if m[3] == '1' else ''}.",
        name,
    )
    name = re.sub(r"^neck\.(lateral|fpn)_convs\.(\d)\.conv\.", lambda m: f"backbone.fpn_{'lateral' if m[1] == 'lateral' else 'output'}{int(m[2]) + 2}.", name)
    for old, new in [
        ("rpn_head.rpn_conv", "proposal_generator.rpn_head.conv"),
        ("rpn_head.rpn_cls", "proposal_generator.rpn_head.objectness_logits"),
        ("rpn_head.rpn_reg", "proposal_generator.rpn_head.anchor_deltas"),
        ("bbox_head.fc_cls", "roi_heads.box_predictor.cls_score"),
        ("bbox_head.fc_reg", "roi_heads.box_predictor.bbox_pred"),
        ("mask_head.upsample", "roi_heads.mask_head.deconv"),
        ("mask_head.conv_logits", "roi_heads.mask_head.predictor"),
    ]:
        name = name.replace(old, new)
    name = re.sub(r"^bbox_head\.shared_convs\.(\d)\.conv", lambda m: f"roi_heads.box_head.conv{int(m[1]) + 1}", name)
    name = re.sub(r"^bbox_head\.shared_fcs\.(\d)", lambda m: f"roi_heads.box_head.fc{int(m[1]) + 1}", name)
    return re.sub(r"^mask_head\.convs\.(\d)\.conv", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}", name)


def background_last(state):
    """Class heads as mmdetection 2 and detectron2 have them: the background's logit last, none of its deltas and masks."""
    moved = dict(state)
    for tensor in ("weight", "bias"):
        logits = state[f"roi_heads.box_predictor.cls_score.{tensor}"]
        moved[f"roi_heads.box_predictor.cls_score.{tensor}"] = torch.cat([logits[1:], logits[:1]])
        for name, rows in ((f"roi_heads.box_predictor.bbox_pred.{tensor}", 4), (f"roi_heads.mask_predictor.mask_fcn_logits.{tensor}", 1)):
            moved[name] = state[name][rows:]
    return moved


def in_caffe_style(state, plan):
    """The stem for BGR pixels that are not divided."""
    std = torch.tensor(plan["transform"]["pixel_std"]).view(1, 3, 1, 1)
    return state | {"backbone.body.conv1.weight": (state["backbone.body.conv1.weight"] / std).flip(1)}


def random_model(plan, stride_in_1x1):
    torch.manual_seed(1)
    model = load_back.build(plan).eval()
    for name, tensor in model.state_dict().items():
        if re.search(r"layer.*bn3\.weight", name):
            tensor.fill_(0.3)  # sixteen branches add up
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.1)
        elif "cls_score.weight" in name or "cls_logits.weight" in name:
            tensor.normal_(std=0.3)
        elif "bbox_pred.weight" in name:
            tensor.normal_(std=0.02)
    if stride_in_1x1:
        for stage in (2, 3, 4):
            block = model.backbone.body[f"layer{stage}"][0]
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    return model


def write_data(folder):
    (folder / "images").mkdir(parents=True)
    generator, images = np.random.default_rng(0), []
    for index in range(NUM_IMAGES):
        small = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((SIDE, SIDE), Image.BICUBIC).save(folder / "images" / f"{index}.png")
        images.append({"id": index + 1, "file_name": f"{index}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": 10 * label, "name": f"class {label}"} for label in range(1, NUM_CLASSES + 1)]
    annotation = {"id": 1, "image_id": 1, "category_id": 10, "bbox": [8, 8, 40, 40], "area": 1600, "iscrowd": 0, "segmentation": [[8, 8, 48, 8, 48, 48, 8, 48]]}
    dataset = {"images": images, "annotations": [annotation], "categories": categories}
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(dataset))
    return dataset


def files(state, plan, folder, caffe):
    """The weights in every layout, each in the containers that its library writes."""
    if caffe:
        moved = {detectron2_name(name): tensor for name, tensor in background_last(in_caffe_style(state, plan)).items()}
        moved["pixel_mean"] = torch.zeros(3, 1, 1)
        arrays = {name: tensor.numpy() for name, tensor in moved.items()}
        torch.save({"model": moved, "iteration": 7}, folder / "detectron2.pth")
        (folder / "detectron2.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "nobody"}))
        return ["detectron2.pth", "detectron2.pkl"]
    mmdet = {mmdet_name(name): tensor for name, tensor in state.items()}
    mmdet2 = {mmdet2_name(name): tensor for name, tensor in background_last(state).items()}
    torch.save(state, folder / "torchvision.pth")
    torch.save({"meta": {}, "state_dict": mmdet}, folder / "mmdet_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"meta": {}, "state_dict": mmdet2}, folder / "mmdet2.pth")
    return ["torchvision.pth", "mmdet_legacy.pth", "mmdet2.pth"]


def main(program):
    torch.set_num_threads(1)
    is_good = True
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        dataset = write_data(folder / "data")
        for caffe in (False, True):
            for head in ("two_fc", "four_conv_one_fc"):
                recipe = folder / "recipe.toml"
                recipe.write_text(RECIPE.format(head=head, side=SIDE, stride_in_1x1=str(caffe).lower()))
                shown = subprocess.run([program, "recipe", "show", recipe, "--data", folder / "data"], check=True, capture_output=True)
                plan = json.loads(shown.stdout)
                model = random_model(plan, caffe)
                theirs = load_back.detections_of(model, dataset, folder / "data")
                state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                for name in files(state, plan, folder, caffe):
                    found = folder / "found.json"
                    command = [program, "test", recipe, folder / name, "--data", folder / "data", "--out", found, "--json"]
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                    ours = json.loads(found.read_text())
                    alone, missing = load_back.without_partner(ours, theirs)
                    print(f"{name} {head}: ours {len(ours)}, torchvision's {len(theirs)}, without a partner {len(alone)} and {len(missing)}")
                    is_good &= len(ours) > 50 and not alone and not missing
    sys.exit(not is_good)


if __name__ == "__main__":
    main(*sys.argv[1:])
