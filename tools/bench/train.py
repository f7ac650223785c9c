"""torchvision's side of `cargo xtask bench-peers train`: a step of two images.

usage: train.py WEIGHTS ANNOTATIONS IMAGES

Timed: losses, gradients and the optimizer's step. Resizing and batching are not: the data table has them.
"""

import pathlib
import sys

import numpy as np
import torch
from pycocotools.coco import COCO
from torch import nn

import detector
import server

LAYOUT = server.torch_layout()
weights, annotations, images_dir = sys.argv[1:]


def read_batch():
    coco = COCO(annotations)
    labels = {category: label for label, category in enumerate(sorted(coco.getCatIds()), start=1)}
    images, targets = [], []
    for image in coco.dataset["images"]:
        objects = coco.imgToAnns[image["id"]]
        boxes = torch.tensor([annotation["bbox"] for annotation in objects])
        boxes[:, 2:] += boxes[:, :2]
        images.append(detector.read(pathlib.Path(images_dir) / image["file_name"]))
        targets.append(
            {
                "boxes": boxes,
                "labels": torch.tensor([labels[annotation["category_id"]] for annotation in objects]),
                "masks": torch.from_numpy(np.stack([coco.annToMask(annotation) for annotation in objects])),
            }
        )
    return images, targets


def main():
    model = detector.mask_rcnn(weights).train().to(memory_format=LAYOUT)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4)
    images, targets = model.transform(*read_batch())

    def step():
        optimizer.zero_grad(set_to_none=True)
        features = model.backbone(images.tensors)
        proposals, rpn_losses = model.rpn(images, features, targets)
        _, roi_losses = model.roi_heads(features, proposals, images.image_sizes, targets)
        loss = sum({**rpn_losses, **roi_losses}.values())
        loss.backward()
        optimizer.step()
        return loss.item()

    def repetition(_request):
        seconds, loss = server.timed(step)
        return seconds, f"{loss:.2f}"

    server.serve(repetition)


# pycocotools says on the standard output what it does.
with server.answers_alone():
    main()
