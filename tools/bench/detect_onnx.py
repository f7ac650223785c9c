"""ONNX Runtime's side of `cargo xtask bench-peers detect`: the path of an image.

usage: detect_onnx.py MODEL
"""

import functools
import sys

import numpy as np
import onnxruntime
from PIL import Image

import server

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = server.THREADS
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])


@functools.cache
def read(path):
    pixels = np.array(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels, dtype=np.float32) / 255


def repetition(path):
    image = read(path)
    seconds, found = server.timed(lambda: session.run(None, {"image": image}))
    return seconds, len(found[0])


server.serve(repetition)
