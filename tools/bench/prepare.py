"""Makes what `cargo xtask bench-peers` feeds both sides with.

usage: python tools/bench/prepare.py DATA OUT

DATA is a COCO-format folder (train.json, val.json, images/). OUT receives

weights.pth          a Mask R-CNN R-50-FPN with random weights that finds about as much as a trained one
model.onnx           the same for ONNX Runtime
images.txt           eight images to detect objects in
train.json           two images to train on
load.json            32 images to read
detections_*.json    100 detections per image of val.json, made of its annotations
"""

import json
import pathlib
import random
import sys
import warnings

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO

import detector

NUM_DETECTED, NUM_LOADED, DETECTIONS_PER_IMAGE = 8, 32, 100


def write_subset(dataset, images, path):
    ids = {image["id"] for image in images}
    annotations = [annotation for annotation in dataset["annotations"] if annotation["image_id"] in ids]
    path.write_text(json.dumps({**dataset, "images": images, "annotations": annotations}))


def two_to_train_on(dataset):
    """The first two landscape images of one size that show at least five objects and no crowd."""
    objects = {}
    for annotation in dataset["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation["iscrowd"])
    fitting = [
        image
        for image in dataset["images"]
        if (image["width"], image["height"]) == (640, 480)
        and len(objects.get(image["id"], [])) >= 5
        and not any(objects[image["id"]])
    ]
    return sorted(fitting, key=lambda image: image["id"])[:2]


def write_weights(image_path, path):
    """Random weights; class scores are spread so that some exceed the threshold of 0.05, as in a trained detector."""
    torch.manual_seed(0)
    model = detector.mask_rcnn()
    for name, parameter in model.named_parameters():
        # Sixteen residual branches add up; at their full weight the activations would grow with each.
        if name.endswith("bn3.weight"):
            parameter.data.fill_(0.5)
    logits = []
    predictor = model.roi_heads.box_predictor.cls_score
    hook = predictor.register_forward_hook(lambda module, inputs, output: logits.append(output))
    model.eval()
    with torch.inference_mode():
        model([detector.read(image_path)])
    hook.remove()
    with torch.no_grad():
        predictor.weight *= 2 / logits[0].std()
    # Frozen statistics have no use for PyTorch's counters.
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, path)
    return model


def write_onnx(model, image_path, path):
    # The exporter that traces, because the newer one does not follow the detector's loops over images. What it warns of
    # holds for sizes other than the dynamic ones.
    warnings.simplefilter("ignore")
    torch.onnx.export(
        model,
        ([detector.read(image_path)],),
        path,
        opset_version=17,
        input_names=["image"],
        output_names=["boxes", "labels", "scores", "masks"],
        dynamic_axes={"image": {1: "height", 2: "width"}},
        dynamo=False,
    )


def write_detections(annotations, out):
    """Boxes and masks of the annotations, moved a little, in turn until every image has its number."""
    coco = COCO(annotations)
    draw = random.Random(0)
    boxes, segmentations = [], []
    for image in coco.dataset["images"]:
        objects = coco.imgToAnns[image["id"]]
        objects = [annotation for annotation in objects if not annotation["iscrowd"]]
        for index in range(DETECTIONS_PER_IMAGE if objects else 0):
            annotation = objects[index % len(objects)]
            x, y, width, height = annotation["bbox"]
            dx, dy = (round(draw.gauss(0, 0.05 * (1 + index // 10)) * side) for side in (width, height))
            found = {
                "image_id": image["id"],
                "category_id": annotation["category_id"],
                "score": round(draw.uniform(0.05, 1) / (1 + index // len(objects)), 4),
            }
            boxes.append({**found, "bbox": [round(x + dx, 2), round(y + dy, 2), width, height]})
            mask = np.roll(coco.annToMask(annotation), (dy, dx), (0, 1))
            encoded = masks.encode(np.asfortranarray(mask))
            encoded["counts"] = encoded["counts"].decode()
            segmentations.append({**found, "segmentation": encoded})
    (out / "detections_bbox.json").write_text(json.dumps(boxes))
    (out / "detections_segm.json").write_text(json.dumps(segmentations))


def main(data, out):
    out.mkdir(parents=True, exist_ok=True)
    training = json.loads((data / "train.json").read_text())
    validation = json.loads((data / "val.json").read_text())
    write_subset(training, two_to_train_on(training), out / "train.json")
    images = sorted(validation["images"], key=lambda image: image["id"])
    write_subset(validation, images[:NUM_LOADED], out / "load.json")
    paths = [data / "images" / image["file_name"] for image in images]
    paths = [path for path in paths if Image.open(path).mode == "RGB"][:NUM_DETECTED]
    (out / "images.txt").write_text("".join(f"{path}\n" for path in paths))
    write_detections(data / "val.json", out)
    model = write_weights(paths[0], out / "weights.pth")
    write_onnx(model, paths[0], out / "model.onnx")


main(*(pathlib.Path(argument).absolute() for argument in sys.argv[1:]))
