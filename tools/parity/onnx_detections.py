"""Runs what `cbn export` wrote in ONNX Runtime and compares with `cbn test`: the same boxes, scores and mask cells.

    python tools/parity/onnx_detections.py CBN RECIPE CHECKPOINT DATA

CBN is the built program, DATA a folder with val.json and images/. Onnx 1.23, onnxruntime 1.32. `min_side_px` of the recipe must
be the shorter side of every image: then nothing is resized, and the networks alone are compared. Exit code 1 if a detection has
no partner.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from pycocotools import mask as masks

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


def detections_of(session, dataset, data):
    labels = [category["id"] for category in dataset["categories"]]
    names = [output.name for output in session.get_outputs()]
    found = []
    for image in dataset["images"]:
        pixels = np.asarray(Image.open(data / "images" / image["file_name"]).convert("RGB"), np.float32).transpose(2, 0, 1)
        result = dict(zip(names, session.run(names, {"image": pixels})))
        for index, (box, score, label) in enumerate(zip(result["boxes"], result["scores"], result["labels"])):
            detection = {"image_id": image["id"], "category_id": labels[label], "score": float(score)}
            detection["bbox"] = [float(value) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
            if "masks" in result:
                detection["mask"] = paste(result["masks"][index], box, image["height"], image["width"])
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


def main(program, recipe, checkpoint, data):
    data = Path(data)
    with tempfile.TemporaryDirectory() as folder:
        model, found = Path(folder, "model.onnx"), Path(folder, "found.json")
        subprocess.run([program, "export", checkpoint, model, "--to", "onnx"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([program, "test", recipe, checkpoint, "--data", data, "--out", found, "--json"], check=True, stdout=subprocess.DEVNULL)
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
