"""Runs what `cbn export` wrote in ONNX Runtime and compares with `cbn test`: the same boxes, scores and mask cells.

    python tools/parity/onnx_detections.py CBN RECIPE CHECKPOINT DATA [--set ...]

CBN is the built program, DATA a folder with val.json and images/. Onnx 1.23, onnxruntime 1.32, opencv 5.0, torch 2.11, torchvision 0.26. Images are resized and masks
pasted as the file's metadata says: by OpenCV with the released conventions, by torchvision with its own, resized by Pillow with detectron2's. With the house's, `min_side_px` of the recipe must be the shorter
side of every image: then nothing is resized, and the networks alone are compared. Exit code 1 if a detection has no partner.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This file's folder has a module of torchvision's name.
sys.path = [folder for folder in sys.path if Path(folder).resolve() != HERE]

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from pycocotools import mask as masks
from torchvision.models.detection.roi_heads import paste_masks_in_image

sys.path.append(str(HERE))
import load_back

MIN_MASK_IOU = 0.99


def paste(mask, box, height, width):
    """As `eval/paste_masks.rs`: the mask in its box, bilinear, sampled at pixel centres, above one half."""
    x1, y1, x2, y2 = box
    side = mask.shape[0]
    mask = np.pad(mask, 1)
    xs = (np.arange(width) + 0.5 - x1) / max(x2 - x1, 1e-6) * side + 0.5
    ys = (np.arange(height) + 0.5 - y1) / max(y2 - y1, 1e-6) * side + 0.5

    def weights(at):
        low = np.clip(np.floor(at), 0, side).astype(int)
        share = np.clip(at - low, 0, 1)
        return low, np.where((at < 0) | (at > side + 1), 0, 1), share

    (x, x_in, u), (y, y_in, v) = weights(xs), weights(ys)
    rows = mask[y] * (1 - v)[:, None] + mask[y + 1] * v[:, None]
    cells = rows[:, x] * (1 - u) + rows[:, x + 1] * u
    return (cells > 0.5) & (y_in[:, None] * x_in[None, :] > 0)


def paste_whole_pixels(mask, box, height, width):
    """As the released code; the box's edges are one beyond its last pixels."""
    x1, y1, x2, y2 = (int(value) for value in (box[0], box[1], box[2] - 1, box[3] - 1))
    w, h = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    image = np.zeros((height, width), bool)
    image[y1 : y1 + h, x1 : x1 + w] = (cv2.resize(mask, (w, h)) > 0.5)[: height - y1, : width - x1]
    return image


def paste_by_torchvision(mask, box, height, width):
    return paste_masks_in_image(torch.tensor(mask[None, None]), torch.tensor(box[None]), (height, width))[0, 0].numpy() >= 0.5


PASTE = {"pixel_centres": paste, "padded_whole_pixels": paste_by_torchvision, "whole_pixels": paste_whole_pixels}


def resized(pixels, transform):
    """The network's image `[3, H, W]`, and its pixels per original one, horizontally and vertically."""
    height, width = pixels.shape[:2]
    shortest, longest = transform["min_side_px"][-1], transform["max_side_px"]
    factor = min(shortest / min(height, width), longest / max(height, width))
    rule = transform["conventions"]["resize"]
    if rule == "open_cv":
        pixels = cv2.resize(pixels, (int(width * factor + 0.5), int(height * factor + 0.5)), interpolation=cv2.INTER_LINEAR)
        return pixels.astype(np.float32).transpose(2, 0, 1), [factor, factor]
    if rule == "pillow":
        pixels = np.asarray(Image.fromarray(pixels).resize((int(width * factor + 0.5), int(height * factor + 0.5)), Image.BILINEAR))
    floats = pixels.astype(np.float32).transpose(2, 0, 1)
    if rule == "torchvision":
        floats = torch.nn.functional.interpolate(torch.tensor(floats[None]), scale_factor=factor, mode="bilinear", recompute_scale_factor=True)[0].numpy()
    elif rule == "rounded":
        assert factor == 1, f"{width} x {height} would be resized"
    return floats, [floats.shape[2] / width, floats.shape[1] / height]


def to_original(box, scale, transform, height, width):
    last = transform["conventions"]["boxes"] == "legacy_inclusive"
    box = (box - [0, 0, last, last]) / (scale * 2) + [0, 0, last, last]
    return (box if last else np.clip(box, 0, [width, height] * 2)).astype(np.float32)


def detections_of(session, dataset, data):
    labels = [category["id"] for category in dataset["categories"]]
    names = [output.name for output in session.get_outputs()]
    transform = json.loads(session.get_modelmeta().custom_metadata_map["transform"])
    found = []
    for image in dataset["images"]:
        pixels, scale = resized(np.asarray(Image.open(data / "images" / image["file_name"]).convert("RGB")), transform)
        inputs = {"image": pixels, "scale": np.array(scale, np.float32)}
        result = dict(zip(names, session.run(names, {value.name: inputs[value.name] for value in session.get_inputs()})))
        for index, (box, score, label) in enumerate(zip(result["boxes"], result["scores"], result["labels"])):
            box = to_original(box, scale, transform, image["height"], image["width"])
            detection = {"image_id": image["id"], "category_id": labels[label], "score": float(score)}
            detection["bbox"] = [float(value) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
            if "masks" in result:
                paste_mask = PASTE[transform["conventions"]["paste"]]
                detection["mask"] = paste_mask(result["masks"][index], box, image["height"], image["width"])
            found.append(detection)
    return found


def worst_mask(ours, theirs):
    """The least IoU of the masks of detections that are partners."""
    worst = 1.0
    for detection in theirs:
        partners = [other for other in ours if other["image_id"] == detection["image_id"] and other["category_id"] == detection["category_id"]]
        partner = next(other for other in partners if load_back.is_alike(other, detection))
        mask = masks.decode(partner["segmentation"]).astype(bool)
        union = (mask | detection["mask"]).sum()
        worst = min(worst, (mask & detection["mask"]).sum() / union if union else 1.0)
    return worst


def main(program, recipe, checkpoint, data, *options):
    data = Path(data)
    with tempfile.TemporaryDirectory() as folder:
        model, found = Path(folder, "model.onnx"), Path(folder, "found.json")
        subprocess.run([program, "export", checkpoint, model, "--to", "onnx"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([program, "test", recipe, checkpoint, "--data", data, "--out", found, "--json", *options], check=True, stdout=subprocess.DEVNULL)
        onnx.checker.check_model(model, full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        ours = json.loads(found.read_text())
        theirs = detections_of(session, json.loads((data / "val.json").read_text()), data)
    alone, missing = load_back.without_partner(ours, theirs)
    print(f"ours {len(ours)}, ONNX Runtime's {len(theirs)}, without a partner {len(alone)} and {len(missing)}")
    if alone or missing:
        sys.exit(1)
    if theirs and "mask" in theirs[0]:
        worst = worst_mask(ours, theirs)
        print(f"least mask IoU {worst:.4f}")
        sys.exit(bool(worst < MIN_MASK_IOU))


if __name__ == "__main__":
    main(*sys.argv[1:])
