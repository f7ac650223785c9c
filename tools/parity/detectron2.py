"""detectron2 0.6 against `cbn test` with the same weights on real images, from file to file.

    python tools/parity/detectron2.py CBN DATA SOURCES [--images 2] [--seeds 0] [--models mask_gn ...]

CBN is the built program, DATA a folder in COCO's format (val.json, images/), SOURCES the unpacked source archive of `pb1-detectron2` 0.6, an upload to PyPI by somebody else than
detectron2's authors of their Python files and configurations of 0.6. Its set-up cannot run (the C++ sources are not in it) and need not: regions are pooled and near-duplicates found by
torchvision's operations. Torch 2.11, torchvision 0.26, NumPy 2.4, Pillow 13.0, pycocotools 2.0, fvcore 0.1.5.post20221221, iopath 0.1.10, omegaconf 2.3.1, yacs 0.1.8, tabulate 0.10,
termcolor 3.3, cloudpickle 3.1.3, matplotlib 3.11.

Models are built from the configurations of detectron2's zoo by its own code, which writes a `.pth` with its `DetectionCheckpointer`. The same weights as the zoo has them, a `.pkl` of NumPy arrays, are read
by detectron2's `DefaultPredictor`, which finds what is compared, and by `cbn test` as well: the same has to be found from both files.

Two things differ and are taken out. detectron2's anchors are not rounded to whole pixels: they are here. Its images are resized by Pillow, which gives other bytes than ours: only images with a shorter side of
480 are taken, and are not resized.

Weights are random, see tools/parity/torchvision.py, whose limits these are. Exit code 1 if one is not met.
"""

import argparse
import importlib.util
import json
import os
import pickle
import sys
import tempfile
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This file's folder has modules of detectron2's and torchvision's names.
sys.path = [folder for folder in sys.path if Path(folder).resolve() != HERE]

import numpy as np
import torch
from PIL import Image

spec = importlib.util.spec_from_file_location("detections", HERE / "torchvision.py")
detections = importlib.util.module_from_spec(spec)
spec.loader.exec_module(detections)

SHORTER_SIDE = 480
FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
# The box head of the zoo's Misc/mask_rcnn_R_50_FPN_3x_{gn,syncbn}.
CONVOLUTIONS = ["MODEL.ROI_BOX_HEAD.NUM_CONV", 4, "MODEL.ROI_BOX_HEAD.NUM_FC", 1]
# What trains from ImageNetPretrained/torchvision/R-50.pkl.
RGB = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "MODEL.PIXEL_STD", [58.395, 57.12, 57.375], "MODEL.RESNETS.STRIDE_IN_1X1", False]


def heads_with(norm):
    return CONVOLUTIONS + [part for owner in ("FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD") for part in (f"MODEL.{owner}.NORM", norm)]


MODELS = {
    "faster": (FASTER, []),
    "faster_rgb": (FASTER, RGB),
    "faster_gn": (FASTER, heads_with("GN")),
    "mask": (MASK, []),
    "mask_bn": (MASK, heads_with("BN")),
    "mask_gn": (MASK, heads_with("GN")),
}
RECIPE = """
description = "what detectron2's zoo configures"
[model.backbone]
depth = "r50"
frozen_stages = 1
stride_in_1x1 = {stride_in_1x1}
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
RECIPE_NORMS = {"": '"none"', "BN": '"bn"', "GN": '{ kind = "gn", groups = 32 }'}


def load_detectron2(sources):
    # Its compiled operations are not called.
    sys.modules["detectron2._C"] = types.ModuleType("detectron2._C")
    sys.path.insert(0, str(sources))
    # What Pillow had in 2021.
    Image.LINEAR = Image.BILINEAR
    from detectron2.modeling.meta_arch import rcnn

    postprocess = rcnn.detector_postprocess

    def kept(results, *size):
        """Has what is found keep its masks as they left the network."""
        if results.has("pred_masks"):
            results.probabilities = results.pred_masks[:, 0]
        return postprocess(results, *size)

    rcnn.detector_postprocess = kept


def config_of(name):
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    file, options = MODELS[name]
    config = get_cfg()
    config.merge_from_file(model_zoo.get_config_file(file))
    config.merge_from_list(["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", SHORTER_SIDE, *options])
    return config


def find(predictor, path):
    from detectron2.data.detection_utils import read_image

    return predictor(read_image(path, format="BGR"))["instances"]


def apart(layer, activation):
    """Has a layer's activation follow it as a hook, behind hooks that want what comes before it."""
    layer.activation = None
    return layer.register_forward_hook(lambda module, inputs, output: activation(output))


def random_model(config, seed, path):
    """A detector with weights as detectron2 holds them; the backbone's norms are batch norms until they have seen an image."""
    from detectron2.engine import DefaultPredictor
    from detectron2.layers import FrozenBatchNorm2d

    config = config.clone()
    config.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0])
    torch.manual_seed(seed)
    predictor = DefaultPredictor(config)
    model = predictor.model
    detections.randomize(model, 1.0)
    layers = [(layer, layer.activation) for layer in model.modules() if getattr(layer, "bias", None) is not None and getattr(layer, "activation", None)]
    hooks = [apart(*layer) for layer in layers]
    find(predictor, path)
    for hook, (layer, activation) in zip(hooks, layers):
        hook.remove()
        layer.activation = activation
    model.backbone.bottom_up = FrozenBatchNorm2d.convert_frozen_batchnorm(model.backbone.bottom_up)
    return model.eval()


def save(model, folder):
    """A `.pth` by detectron2's own code, and a `.pkl` as its zoo has them."""
    from detectron2.checkpoint import DetectionCheckpointer

    DetectionCheckpointer(model, str(folder)).save("model_final", iteration=89999)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    (folder / "model_final.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    return folder / "model_final.pth", folder / "model_final.pkl"


def write_recipe(config, path):
    heads = config.MODEL.ROI_BOX_HEAD
    has_masks = config.MODEL.MASK_ON
    norm = RECIPE_NORMS[heads.NORM]
    recipe = RECIPE.format(
        side=SHORTER_SIDE,
        stride_in_1x1=str(config.MODEL.RESNETS.STRIDE_IN_1X1).lower(),
        head="four_conv_one_fc" if heads.NUM_CONV else "two_fc",
        norm=norm,
        mask_norm=f"mask_head = {norm}" if has_masks else "",
        mask_head=MASK_HEAD if has_masks else "",
    )
    path.write_text(recipe)


def paste(probabilities, bbox, size):
    from detectron2.layers.mask_ops import _do_paste_mask

    x, y, width, height = bbox
    box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)
    return _do_paste_mask(probabilities[None, None], box, *size, skip_empty=False)[0][0].numpy()


def detections_in(image, path, predictor, categories):
    """As COCO's results."""
    found = find(predictor, path)
    for index, (x1, y1, x2, y2) in enumerate(found.pred_boxes.tensor.double().tolist()):
        detection = {"image_id": image["id"], "category_id": categories[int(found.pred_classes[index])], "bbox": [x1, y1, x2 - x1, y2 - y1]}
        detection["score"] = float(found.scores[index])
        if found.has("pred_masks"):
            detection |= {"segmentation": detections.encode(found.pred_masks[index].numpy()), "probabilities": found.probabilities[index]}
        yield detection


def ours_of(program, recipe, weights, is_rgb, folder):
    """What `cbn test` finds. That pixels were RGB is told to `cbn convert`, as the files don't tell."""
    output = folder / "found.json"
    if is_rgb:
        converted = folder / "converted.safetensors"
        detections.run([program, "convert", weights, converted, "--recipe", recipe, "--annotations", folder / "val.json", "--style", "pytorch"])
        weights = converted
    detections.run([program, "test", recipe, weights, "--data", folder, "--out", output, "--json"])
    return json.loads(output.read_text())


def compare(program, name, seed, dataset, folder):
    from detectron2.engine import DefaultPredictor

    config = config_of(name)
    paths = [str(folder / "images" / image["file_name"]) for image in dataset["images"]]
    pth, pkl = save(random_model(config, seed, paths[0]), folder)
    recipe = folder / "recipe.toml"
    write_recipe(config, recipe)
    ours, from_pkl = (ours_of(program, recipe, weights, config.INPUT.FORMAT == "RGB", folder) for weights in (pth, pkl))
    config.MODEL.WEIGHTS = str(pkl)
    predictor = DefaultPredictor(config)
    for anchors in predictor.model.proposal_generator.anchor_generator.cell_anchors:
        anchors.round_()
    categories = sorted(category["id"] for category in dataset["categories"])
    theirs = [found for image, path in zip(dataset["images"], paths) for found in detections_in(image, path, predictor, categories)]
    is_same = ours == from_pkl
    if not is_same:
        print("  the .pkl finds something else than the .pth")
    comparison = detections.Comparison(ours, theirs, paste)
    print(f"{name} seed {seed}, {len(paths)} images: {comparison}", flush=True)
    return is_same & comparison.is_good() & has_same_ap(ours, theirs, dataset, config.MODEL.MASK_ON)


def has_same_ap(ours, theirs, dataset, has_masks):
    annotations = detections.annotations_of(theirs, dataset)
    is_same = True
    for kind in ["bbox", "segm"] if has_masks else ["bbox"]:
        ap = [detections.average_precision(annotations, found, kind) for found in (ours, theirs)]
        is_same &= abs(ap[0] - ap[1]) <= detections.MAX_AP_DIFFERENCE
        print(f"  {kind} AP {ap[0]:.4f} and {ap[1]:.4f}", flush=True)
    return is_same


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("data", type=Path)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="skips so many images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    load_detectron2(args.sources)
    dataset = json.loads((args.data / "val.json").read_text())
    images = [image for image in dataset["images"] if min(image["width"], image["height"]) == SHORTER_SIDE]
    dataset["images"] = images[args.first :][: args.images]
    ids = {image["id"] for image in dataset["images"]}
    dataset["annotations"] = [annotation for annotation in dataset["annotations"] if annotation["image_id"] in ids]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "val.json").write_text(json.dumps(dataset))
        os.symlink((args.data / "images").absolute(), folder / "images")
        results = [compare(args.program, name, seed, dataset, folder) for name in args.models for seed in args.seeds]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
