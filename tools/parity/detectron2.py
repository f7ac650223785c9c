"""detectron2 0.6 against `cbn test` with the same weights on real images, from file to file.

    python tools/parity/detectron2.py CBN DATA SOURCES [--images 2] [--side 800] [--seeds 0] [--models mask_gn ...]

CBN is the built program, DATA a folder in COCO's format (val.json, images/), SOURCES the unpacked source archive of `pb1-detectron2` 0.6, an upload to PyPI by somebody else than
detectron2's authors of their Python files and configurations of 0.6. Its set-up cannot run (the C++ sources are not in it) and need not: regions are pooled and near-duplicates found by
torchvision's operations. Torch 2.11, torchvision 0.26, NumPy 2.4, Pillow 13.0, pycocotools 2.0, safetensors 0.8, fvcore 0.1.5.post20221221, iopath 0.1.10, omegaconf 2.3.1, yacs 0.1.8, tabulate 0.10,
termcolor 3.3, cloudpickle 3.1.3, matplotlib 3.11.

Models are built from the configurations of detectron2's zoo by its own code, which writes a `.pth` with its `DetectionCheckpointer`. The same weights as the zoo has them, a `.pkl` of NumPy arrays, are read
by detectron2's `DefaultPredictor`, which finds what is compared, and by `cbn test` as well: the same has to be found from both files.

`cbn test` gets recipes/detectron2, whose `conventions = "detectron2"` are what is compared; heads are set as in the model's configuration.

`caffe2_backbone` is a ResNet-50 with Caffe2's names, as ImageNetPretrained/MSRA/R-50.pkl has them: what detectron2 makes of it, and what `cbn train` starts from, are the same tensors.

Weights are random, see tools/parity/torchvision.py, whose limits these are. Exit code 1 if one is not met.
"""

import argparse
import importlib.util
import json
import pickle
import sys
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

RECIPES = HERE.parents[1] / "recipes" / "detectron2"
FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
# GN in the backbone as well, BGR pixels that are not divided, and the stride in the 3x3 convolution.
ALL_GN = "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml"
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
    "mask_all_gn": (ALL_GN, []),
}
NORMS = {"": '"none"', "FrozenBN": '"frozen"', "BN": '"bn"', "GN": '{ kind = "gn", groups = 32 }'}


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


def config_of(name, side):
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    file, options = MODELS[name]
    config = get_cfg()
    config.merge_from_file(model_zoo.get_config_file(file))
    config.merge_from_list(["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", side, *options])
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
    if config.MODEL.RESNETS.NORM == "FrozenBN":
        config.MODEL.RESNETS.NORM = "BN"
    config.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", 0])
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


def settings_of(config):
    """What the recipe has otherwise."""
    heads = config.MODEL.ROI_BOX_HEAD
    settings = {
        "data.transform.min_side_px": f"[{config.INPUT.MIN_SIZE_TEST}]",
        "model.backbone.stride_in_1x1": str(config.MODEL.RESNETS.STRIDE_IN_1X1).lower(),
        "model.box_head.head": '"four_conv_one_fc"' if heads.NUM_CONV else '"two_fc"',
        "norm.backbone": NORMS[config.MODEL.RESNETS.NORM],
        "norm.neck": NORMS[config.MODEL.FPN.NORM],
        "norm.box_head": NORMS[heads.NORM],
    }
    if config.MODEL.MASK_ON:
        settings["norm.mask_head"] = NORMS[config.MODEL.ROI_MASK_HEAD.NORM]
    return [option for key, value in settings.items() for option in ("--set", f"{key}={value}")]


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


def style_of(config):
    """Of the backbone, in the words of `cbn convert`."""
    if config.INPUT.FORMAT == "RGB":
        return "pytorch"
    return "caffe" if config.MODEL.RESNETS.STRIDE_IN_1X1 else "caffe2"


def ours_of(program, config, weights, folder):
    """What `cbn test` finds. Another style than the usual one is told to `cbn convert`, as the files don't tell."""
    recipe = RECIPES / ("mask_rcnn_r50_fpn_1x.toml" if config.MODEL.MASK_ON else "faster_rcnn_r50_fpn_1x.toml")
    settings, output = settings_of(config), folder / "found.json"
    if style_of(config) != "caffe":
        converted = folder / "converted.safetensors"
        detections.run([program, "convert", weights, converted, "--recipe", recipe, "--annotations", folder / "val.json", "--style", style_of(config), *settings])
        weights = converted
    detections.run([program, "test", recipe, weights, "--data", folder, "--out", output, "--json", *settings])
    return json.loads(output.read_text())


def compare(program, config, label, seed, dataset, folder):
    from detectron2.engine import DefaultPredictor

    paths = [str(folder / "images" / image["file_name"]) for image in dataset["images"]]
    pth, pkl = save(random_model(config, seed, paths[0]), folder)
    ours, from_pkl = (ours_of(program, config, weights, folder) for weights in (pth, pkl))
    config.MODEL.WEIGHTS = str(pkl)
    predictor = DefaultPredictor(config)
    categories = sorted(category["id"] for category in dataset["categories"])
    theirs = [found for image, path in zip(dataset["images"], paths) for found in detections_in(image, path, predictor, categories)]
    is_same = ours == from_pkl
    if not is_same:
        print("  the .pkl finds something else than the .pth")
    comparison = detections.Comparison(ours, theirs, paste)
    print(f"{label}, seed {seed}, {len(paths)} images: {comparison}", flush=True)
    return is_same & comparison.is_good() & has_same_ap(ours, theirs, dataset, config.MODEL.MASK_ON)


def has_same_ap(ours, theirs, dataset, has_masks):
    annotations = detections.annotations_of(theirs, dataset)
    is_same = True
    for kind in ["bbox", "segm"] if has_masks else ["bbox"]:
        ap = [detections.average_precision(annotations, found, kind) for found in (ours, theirs)]
        is_same &= abs(ap[0] - ap[1]) <= detections.MAX_AP_DIFFERENCE
        print(f"  {kind} AP {ap[0]:.4f} and {ap[1]:.4f}", flush=True)
    return is_same


CAFFE2_LAYERS = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}


def caffe2_name(name):
    parts, norm = name.split("."), ".norm." in name
    if parts[0] == "stem":
        layer = "res_conv1" if norm else "conv1"
    else:
        layer = f"{parts[0]}_{parts[1]}_{CAFFE2_LAYERS[parts[2]]}"
    return layer + ("_bn" if norm else "") + {"weight": "_s" if norm else "_w", "bias": "_b"}[parts[-1]]


def compare_backbone(program, folder):
    """A rate of almost 0 leaves what a training starts from; written under detectron2's names, its stem is for RGB pixels that are divided."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model
    from safetensors.torch import load_file

    torch.manual_seed(0)
    model = build_model(config_of("faster", 800))
    network = model.backbone.bottom_up
    given = {name: torch.randn_like(tensor) * 0.02 for name, tensor in network.state_dict().items() if ".running_" not in name}
    arrays = {caffe2_name(name): tensor.numpy() for name, tensor in given.items()}
    arrays |= {"conv1_b": np.zeros(64, np.float32), "fc1000_w": np.ones((1000, 2048), np.float32)}
    weights, written = folder / "R-50.pkl", folder / "written.safetensors"
    weights.write_bytes(pickle.dumps(arrays, protocol=2))
    DetectionCheckpointer(model).load(str(weights))
    expected = network.state_dict()
    expected["stem.conv1.weight"] = expected["stem.conv1.weight"].flip(1) * torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
    settings = [f"train.backbone_weights={weights}", "train.batch_size=1", "train.learning_rate=1e-30", "data.transform.min_side_px=[128]"]
    settings = [option for setting in settings for option in ("--set", setting)]
    (folder / "train.json").write_text((folder / "val.json").read_text())
    command = [program, "train", RECIPES / "faster_rcnn_r50_fpn_1x.toml", "--data", folder, "--work-dir", folder / "training", "--max-iterations", "1"]
    detections.run([*command, *settings])
    (checkpoint,) = (folder / "training").glob("checkpoint_0*.safetensors")
    detections.run([program, "convert", checkpoint, written, "--to", "detectron2"])
    found = load_file(written)
    # The stem's product is rounded.
    same = [name for name, tensor in expected.items() if torch.allclose(found[f"backbone.bottom_up.{name}"], tensor, rtol=2e-7, atol=0)]
    print(f"caffe2_backbone: {len(same)} of {len(expected)} tensors the same", flush=True)
    return len(same) == len(expected)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("data", type=Path)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="skips so many images")
    parser.add_argument("--side", type=int, default=800, help="what the shorter side of an image is resized to")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", choices=[*MODELS, "caffe2_backbone"], default=[*MODELS, "caffe2_backbone"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    load_detectron2(args.sources)
    with detections.folder_of(args.data, args.first, args.images) as (folder, dataset):
        results = [compare(args.program, config_of(name, args.side), name, seed, dataset, folder) for name in args.models if name in MODELS for seed in args.seeds]
        if "caffe2_backbone" in args.models:
            results.append(compare_backbone(args.program, folder))
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
