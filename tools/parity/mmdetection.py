"""mmdetection 0.6.2, which the released code is a fork of, against `cbn test` with the same state dict on real images, from file to file.

    python tools/parity/mmdetection.py CBN DATA SOURCES [--images 2] [--seeds 0] [--models mask_rcnn_r50_gn ...]

CBN is the built program, DATA a folder in COCO's format (val.json, images/), SOURCES one with mmdet-0.6.2 and mmcv-0.2.16, unpacked from PyPI's source archives.
Their set-ups don't run today (no CUDA, no Cython sources in the archive) and need not: only their Python is used. Torch 2.11, torchvision 0.26, NumPy 1.23, pycocotools 2.0,
OpenCV, six, PyYAML.

mmdetection reads and resizes the images, builds the detector of each released recipe, writes its checkpoint, and finds and pastes what it finds, all by its own code. Its compiled operations run
on GPUs only; in their place are torchvision's `nms` and `roi_align`, given boxes so that they compute what the CUDA sources say: areas up to `x2 + 1`, and neither half a cell's
shift nor a smallest region. CBN norms are the released fork's alone: `*_cbn` is not here.

Weights are random, see tools/parity/torchvision.py, whose limits these are. Exit code 1 if one is not met.
"""

import argparse
import collections.abc
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
from torch import nn

spec = importlib.util.spec_from_file_location("detections", HERE / "torchvision.py")
detections = importlib.util.module_from_spec(spec)
spec.loader.exec_module(detections)

NORMS = {"none": None, "syncbn": {"type": "SyncBN"}, "gn": {"type": "GN", "num_groups": 32}}
MODELS = [f"{kind}_rcnn_r50_{norm}" for kind in ("faster", "mask") for norm in NORMS]
TEST_CONFIG = {
    "rpn": {"nms_across_levels": False, "nms_pre": 2000, "nms_post": 2000, "max_num": 2000, "nms_thr": 0.7, "min_bbox_size": 0},
    "rcnn": {"score_thr": 0.05, "nms": {"type": "nms", "iou_thr": 0.5}, "max_per_img": 100, "mask_thr_binary": 0.5},
}


class Absent(types.ModuleType):
    """A module whose every name is a class that is never made."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def nms(boxes, iou_thr, device_id=None):
    areas = boxes[:, :4] + boxes.new_tensor([0, 0, 1, 1])
    kept = torchvision.ops.nms(areas, boxes[:, 4], iou_thr)
    return boxes[kept], kept


class RoIAlign(nn.Module):
    def __init__(self, out_size, spatial_scale, sample_num=0):
        super().__init__()
        self.out_size, self.scale, self.sample_num = out_size, spatial_scale, sample_num

    def forward(self, features, rois):
        half_cell = 0.5 / self.scale
        rois = rois + rois.new_tensor([0, half_cell, half_cell, half_cell + 1, half_cell + 1])
        return torchvision.ops.roi_align(features, rois.to(features.dtype), self.out_size, self.scale, self.sample_num, aligned=True)


def load_mmdetection(sources):
    """mmdetection's modules, with the two operations in place of the compiled ones."""
    operations, wrapper = Absent("mmdet.ops"), Absent("mmdet.ops.nms")
    operations.RoIAlign, operations.nms, wrapper.nms_wrapper = RoIAlign, nms, types.SimpleNamespace(nms=nms)
    operations.__path__ = []
    sys.modules |= {"mmdet.ops": operations, "mmdet.ops.nms": wrapper, "mmcv._ext": Absent("mmcv._ext")}
    sys.path[:0] = [str(sources / folder) for folder in ("mmdet-0.6.2", "mmcv-0.2.16")]
    # What Python and torch had in 2019.
    collections.Sequence, collections.Mapping = collections.abc.Sequence, collections.abc.Mapping
    nn.SyncBatchNorm._specify_ddp_gpu_num = lambda self, number: None
    from mmcv import ConfigDict
    from mmdet.core.anchor.anchor_generator import AnchorGenerator
    from mmdet.datasets import CocoDataset
    from mmdet.models import build_detector

    # Where it asks for a GPU without being asked.
    torch.cuda.FloatTensor = torch.FloatTensor
    AnchorGenerator.grid_anchors.__defaults__ = (16, "cpu")
    AnchorGenerator.valid_flags.__defaults__ = ("cpu",)
    return ConfigDict, CocoDataset, build_detector


def config_of(name, norms=NORMS):
    """The released configuration, in the names of 0.6.2."""
    kind, norm = name.split("_rcnn_r50_")
    norm = norms[norm]
    levels = {"out_channels": 256, "featmap_strides": [4, 8, 16, 32]}
    roi_align = {"type": "RoIAlign", "sample_num": 2}
    config = {
        "type": "FasterRCNN" if kind == "faster" else "MaskRCNN",
        "backbone": {"type": "ResNet", "depth": 50, "num_stages": 4, "out_indices": (0, 1, 2, 3), "frozen_stages": 1, "style": "pytorch"},
        "neck": {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": 256, "num_outs": 5, "norm_cfg": norm},
        "rpn_head": {"type": "RPNHead", "in_channels": 256, "feat_channels": 256, "anchor_scales": [8]},
        "bbox_roi_extractor": {"type": "SingleRoIExtractor", "roi_layer": {**roi_align, "out_size": 7}, **levels},
        "bbox_head": {"type": "ConvFCBBoxHead", "num_shared_convs": 4, "num_shared_fcs": 1, "in_channels": 256, "norm_cfg": norm},
        "test_cfg": TEST_CONFIG,
    }
    if kind == "mask":
        config["mask_roi_extractor"] = {"type": "SingleRoIExtractor", "roi_layer": {**roi_align, "out_size": 14}, **levels}
        config["mask_head"] = {"type": "FCNMaskHead", "num_convs": 4, "in_channels": 256, "norm_cfg": norm}
    return config


def find(model, dataset, index):
    """mmdetection's result for an image: boxes of each class, and, of a Mask R-CNN, masks."""
    item = dataset[index]
    with torch.no_grad():
        images, meta = [image[None] for image in item["img"]], [[meta.data] for meta in item["img_meta"]]
        return model(img=images, img_meta=meta, return_loss=False, rescale=True)


def keep_probabilities(head, first_label):
    """Has a mask head keep its last image's probabilities, in the order of results: class after class."""
    get_seg_masks = head.get_seg_masks

    def kept(mask_pred, boxes, labels, *rest, **named):
        of_class = mask_pred.sigmoid()[torch.arange(len(labels)), labels + first_label]
        head.probabilities = list(of_class[labels.argsort(stable=True)])
        return get_seg_masks(mask_pred, boxes, labels, *rest, **named)

    head.get_seg_masks = kept


def paste(probabilities, bbox, size):
    """`FCNMaskHead.get_seg_masks`, before its threshold."""
    import mmcv

    x, y, width, height = bbox
    x1, y1, x2, y2 = np.array([x, y, x + width - 1, y + height - 1], dtype=np.float32).astype(np.int32)
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    mask = np.zeros(size, dtype=np.float32)
    mask[y1 : y1 + height, x1 : x1 + width] = mmcv.imresize(probabilities.numpy(), (width, height))
    return mask


def random_model(build_detector, config, seed, dataset, distance=1.0):
    torch.manual_seed(seed)
    model = build_detector(config).eval()
    detections.randomize(model, distance)
    find(model, dataset, 0)
    return model.eval()


def detections_of(model, dataset):
    from mmdet.core.evaluation.coco_utils import det2json, segm2json

    if not model.with_mask:
        return det2json(dataset, [find(model, dataset, index) for index in range(len(dataset))])
    keep_probabilities(model.mask_head, 1)
    results, probabilities = [], []
    for index in range(len(dataset)):
        results.append(find(model, dataset, index))
        probabilities += model.mask_head.probabilities
    return [found | {"probabilities": mask} for found, mask in zip(segm2json(dataset, results), probabilities)]


def dataset_of(CocoDataset, folder, scale, **options):
    """As released: its data set reads val.json and images/ and resizes to the scale, `(longer side, shorter side)`."""
    norm = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}
    return CocoDataset(str(folder / "val.json"), str(folder / "images"), scale, norm, size_divisor=32, **options)


def compare(program, name, seed, mmdetection, folder):
    ConfigDict, CocoDataset, build_detector = mmdetection
    dataset = dataset_of(CocoDataset, folder, (1333, 800), with_mask=False, test_mode=True)
    model = random_model(build_detector, ConfigDict(config_of(name)), seed, dataset)
    weights, output = folder / f"{name}_{seed}.pth", folder / "found.json"
    torch.save({"meta": {}, "state_dict": model.state_dict()}, weights, _use_new_zipfile_serialization=False)
    recipe = detections.RECIPES.parent / f"{name}.toml"
    detections.run([program, "test", recipe, weights, "--data", folder, "--out", output, "--json"])
    weights.unlink()
    comparison = detections.Comparison(json.loads(output.read_text()), detections_of(model, dataset), paste)
    print(f"{name} seed {seed}, {len(dataset)} images: {comparison}", flush=True)
    return comparison.is_good()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("data", type=Path)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="skips so many images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    mmdetection = load_mmdetection(args.sources)
    with detections.folder_of(args.data, args.first, args.images) as (folder, _):
        results = [compare(args.program, name, seed, mmdetection, folder) for name in args.models for seed in args.seeds]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
