"""mmdetection 2.28.2 against `cbn test` with the same state dict on real images, from file to file.

    python tools/parity/mmdetection2.py CBN DATA [--images 2] [--seeds 0] [--models mask_gn ...]

CBN is the built program, DATA a folder in COCO's format (val.json, images/). mmdet 2.28.2 and mmcv 1.7.2 from PyPI (`MMCV_WITH_OPS=0`, without their dependencies), Torch 2.11,
torchvision 0.26, NumPy 1.23, pycocotools 2.0, OpenCV, addict, yapf, terminaltables, SciPy, matplotlib.

Detectors are built from mmdetection's own configuration files and write their own checkpoints; norms and the convolutional box head of `*_gn` and `*_bn` are set as in its configs/gn. mmcv's
compiled operations are torchvision's `nms` and `roi_align`, which have the same definitions.

What differs is taken out. Anchors of 2.x are not rounded to whole pixels: they are here. Images that were resized by OpenCV have other bytes than ours (`conventions = "released"`
has OpenCV's): only images with a shorter side of 480 are taken, and are not resized.

Weights are random, see tools/parity/torchvision.py, whose limits these are. Exit code 1 if one is not met.
"""

import argparse
import importlib.util
import json
import sys
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This file's folder has a module of torchvision's name.
sys.path = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch
import torchvision

spec = importlib.util.spec_from_file_location("mmdetection", HERE / "mmdetection.py")
mmdetection = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mmdetection)
detections = mmdetection.detections

SHORTER_SIDE = 480
NORMS = {"none": None, "bn": {"type": "BN"}, "gn": {"type": "GN", "num_groups": 32}}
MODELS = [f"{kind}_{norm}" for kind in ("faster", "mask") for norm in NORMS]
RECIPE = """
description = "what mmdetection 2 configures"
[model.backbone]
depth = "r50"
frozen_stages = 1
[model.rpn]
anchors = {{ sizes = [[32], [64], [128], [256], [512]], aspect_ratios = [0.5, 1.0, 2.0] }}
test_proposals = {{ pre_nms_top_n = 1000, post_nms_top_n = 1000 }}
[model.box_head]
head = "{head}"
pool = {{ side = 7, sampling_ratio = 0, aligned = true }}
{mask_head}
[norm]
backbone = "frozen"
neck = {norm}
box_head = {norm}
{mask_norm}
[data.transform]
min_side_px = [{side}]
max_side_px = 1333
pixel_mean = [123.675, 116.28, 103.53]
pixel_std = [58.395, 57.12, 57.375]
[train]
length = {{ iterations = 1 }}
batch_size = 1
learning_rate = 0.01
"""
MASK_HEAD = """[model.mask_head]
pool = { side = 14, sampling_ratio = 0, aligned = true }"""
RECIPE_NORMS = {"none": '"none"', "bn": '"bn"', "gn": '{ kind = "gn", groups = 32 }'}


class Operations(types.ModuleType):
    """In place of mmcv's compiled module."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    @staticmethod
    def nms(boxes, scores, iou_threshold, offset):
        assert offset == 0
        return torchvision.ops.nms(boxes, scores, iou_threshold)

    @staticmethod
    def roi_align_forward(features, rois, output, _y, _x, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned):
        assert pool_mode == 1
        output.copy_(torchvision.ops.roi_align(features, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned))


def build(name):
    sys.modules["mmcv._ext"] = Operations("mmcv._ext")
    import mmdet
    from mmcv import Config
    from mmdet.models import build_detector

    kind, norm = name.split("_")
    config = Config.fromfile(Path(mmdet.__file__).parent / f".mim/configs/{kind}_rcnn/{kind}_rcnn_r50_fpn_1x_coco.py")
    config.model.backbone.init_cfg = None
    if NORMS[norm] is not None:
        config.model.neck.norm_cfg = NORMS[norm]
        config.model.roi_head.bbox_head |= {"type": "Shared4Conv1FCBBoxHead", "conv_out_channels": 256, "norm_cfg": NORMS[norm]}
        if kind == "mask":
            config.model.roi_head.mask_head.norm_cfg = NORMS[norm]
    model = build_detector(config.model, test_cfg=config.get("test_cfg"))
    generator = model.rpn_head.prior_generator
    generator.base_anchors = [anchors.round() for anchors in generator.base_anchors]
    if kind == "mask":
        mmdetection.keep_probabilities(model.roi_head.mask_head, 0)
    return model.eval(), config


def find(model, config, path):
    """mmdetection's result for an image file, with its own pipeline."""
    from mmdet.datasets.pipelines import Compose

    pipeline = config.data.test.pipeline
    pipeline[1].img_scale = (1333, SHORTER_SIDE)
    data = Compose(pipeline)({"img_info": {"filename": str(path)}, "img_prefix": None})
    meta = [data["img_metas"][0].data]
    assert meta[0]["scale_factor"].tolist() == [1.0] * 4
    with torch.no_grad():
        return model(img=[data["img"][0][None]], img_metas=[meta], return_loss=False, rescale=True)[0]


def paste(probabilities, bbox, size):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    x, y, width, height = bbox
    box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)
    return _do_paste_mask(probabilities[None, None], box, *size, skip_empty=False)[0][0].numpy()


def detections_in(image, path, model, config, categories):
    """As COCO's results; of a Mask R-CNN, with masks."""
    result = find(model, config, path)
    boxes_of_classes, masks_of_classes = result if isinstance(result, tuple) else (result, None)
    probabilities = iter(model.roi_head.mask_head.probabilities if masks_of_classes is not None else [])
    for label, boxes in enumerate(boxes_of_classes):
        for index, (x1, y1, x2, y2, score) in enumerate(boxes.tolist()):
            found = {"image_id": image["id"], "category_id": categories[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            if masks_of_classes is not None:
                found["segmentation"] = detections.encode(np.asarray(masks_of_classes[label][index]))
                found["probabilities"] = next(probabilities)
            yield found


def compare(program, name, seed, dataset, folder):
    kind, norm = name.split("_")
    torch.manual_seed(seed)
    model, config = build(name)
    paths = [folder / "images" / image["file_name"] for image in dataset["images"]]
    detections.randomize(model, 1.0)
    find(model, config, paths[0])
    model.eval()
    weights, output, recipe = (folder / file for file in ("weights.pth", "found.json", "recipe.toml"))
    torch.save({"meta": {}, "state_dict": model.state_dict()}, weights)
    has_convolutions = norm != "none"
    recipe.write_text(
        RECIPE.format(
            side=SHORTER_SIDE,
            head="four_conv_one_fc" if has_convolutions else "two_fc",
            norm=RECIPE_NORMS[norm],
            mask_norm=f"mask_head = {RECIPE_NORMS[norm]}" if kind == "mask" else "",
            mask_head=MASK_HEAD if kind == "mask" else "",
        )
    )
    detections.run([program, "test", recipe, weights, "--data", folder, "--out", output, "--json"])
    categories = [category["id"] for category in dataset["categories"]]
    theirs = [found for image, path in zip(dataset["images"], paths) for found in detections_in(image, path, model, config, categories)]
    comparison = detections.Comparison(json.loads(output.read_text()), theirs, paste)
    print(f"{name} seed {seed}, {len(paths)} images: {comparison}", flush=True)
    return comparison.is_good()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="skips so many images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with detections.folder_of(args.data, args.first, args.images, lambda image: min(image["width"], image["height"]) == SHORTER_SIDE) as (folder, dataset):
        results = [compare(args.program, name, seed, dataset, folder) for name in args.models for seed in args.seeds]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
