"""pycocotools' side of `cargo xtask bench-peers eval`: `bbox` or `segm`.

usage: evaluate.py ANNOTATIONS DETECTIONS_BBOX DETECTIONS_SEGM

Timed: reading both files, matching, the twelve numbers.
"""

import sys

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import server

annotations, *detections = sys.argv[1:]
DETECTIONS = dict(zip(("bbox", "segm"), detections))


def evaluate(kind):
    truth = COCO(annotations)
    evaluation = COCOeval(truth, truth.loadRes(DETECTIONS[kind]), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def repetition(kind):
    seconds, ap = server.timed(lambda: evaluate(kind))
    return seconds, f"{ap:.6f}"


# pycocotools says on the standard output what it does.
with server.answers_alone():
    server.serve(repetition)
