"""torchvision's side of `cargo xtask bench-peers detect` and `start`: the path of an image.

usage: detect.py WEIGHTS

Timed: from the decoded image to boxes, scores, classes and masks in its own pixels.
"""

import functools
import sys

import torch

import detector
import server

LAYOUT = server.torch_layout()
read = functools.cache(detector.read)
model = detector.mask_rcnn(sys.argv[1]).eval().to(memory_format=LAYOUT)


def repetition(path):
    image = read(path)
    seconds, found = server.timed(lambda: model([image]))
    return seconds, len(found[0]["boxes"])


with torch.inference_mode():
    server.serve(repetition)
