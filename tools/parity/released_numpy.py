"""The released recipes' conventions, written from their description alone, and the numbers that the Rust test compares with.

    python tools/parity/released_numpy.py OUT.json

NumPy 2, OpenCV (opencv-python-headless). Boxes are x1 y1 x2 y2 with x2 and y2 the last pixel, width x2 - x1 + 1, throughout. All arithmetic is in
double precision but for OpenCV's.
"""

import json
import sys

import cv2
import numpy as np

draw = np.random.default_rng(6)


def f32(values):
    """As a Rust test reads them."""
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def base_anchors(stride, ratios=(0.5, 1.0, 2.0), scale=8):
    size = stride * scale
    centre = 0.5 * (stride - 1)
    anchors = []
    for ratio in ratios:
        width, height = size / np.sqrt(ratio), size * np.sqrt(ratio)
        half = 0.5 * (width - 1), 0.5 * (height - 1)
        anchors.append([centre - half[0], centre - half[1], centre + half[0], centre + half[1]])
    return np.round(anchors)


def grid_anchors(stride, rows, columns):
    base = base_anchors(stride)
    return np.array([box + np.array([x, y, x, y]) * stride for y in range(rows) for x in range(columns) for box in base])


def inside(anchors, width, height):
    return (anchors[:, 0] >= 0) & (anchors[:, 1] >= 0) & (anchors[:, 2] < width) & (anchors[:, 3] < height)


def sizes(boxes):
    return boxes[:, 2] - boxes[:, 0] + 1, boxes[:, 3] - boxes[:, 1] + 1


def iou(a, b):
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(right_bottom - left_top + 1, 0, None).prod(2)
    area = lambda boxes: np.multiply(*sizes(boxes))
    return common / (area(a)[:, None] + area(b)[None] - common)


def encode(gt, boxes, std):
    (gw, gh), (pw, ph) = sizes(gt), sizes(boxes)
    gx, gy = (gt[:, 0] + gt[:, 2]) / 2, (gt[:, 1] + gt[:, 3]) / 2
    px, py = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return np.stack([(gx - px) / pw, (gy - py) / ph, np.log(gw / pw), np.log(gh / ph)], 1) / std


def decode(deltas, boxes, std, width, height):
    dx, dy, dw, dh = (deltas * std).T
    limit = abs(np.log(16 / 1000))
    dw, dh = np.clip(dw, -limit, limit), np.clip(dh, -limit, limit)
    pw, ph = sizes(boxes)
    x = (boxes[:, 0] + boxes[:, 2]) / 2 + dx * pw
    y = (boxes[:, 1] + boxes[:, 3]) / 2 + dy * ph
    w, h = pw * np.exp(dw), ph * np.exp(dh)
    decoded = np.stack([x - w / 2 + 0.5, y - h / 2 + 0.5, x + w / 2 - 0.5, y + h / 2 - 0.5], 1)
    return np.clip(decoded, 0, np.array([width - 1, height - 1] * 2))


def assign(boxes, gt, positive, negative, minimum):
    """-2 ignored, -1 background, else the ground-truth box."""
    overlaps = iou(gt, boxes)
    best = overlaps.max(0)
    assigned = np.full(len(boxes), -2)
    assigned[best < negative] = -1
    assigned[best >= positive] = overlaps.argmax(0)[best >= positive]
    for index, row in enumerate(overlaps):
        if row.max() >= minimum:
            assigned[row == row.max()] = index
    return assigned


def nms(boxes, scores, threshold):
    order, kept = list(np.argsort(-scores, kind="stable")), []
    while order:
        first = order.pop(0)
        kept.append(first)
        overlaps = iou(boxes[[first]], boxes[order])[0] if order else []
        order = [index for index, overlap in zip(order, overlaps) if not overlap > threshold]
    return kept


def proposals(levels, width, height, limit):
    """`levels`: anchors, logits, deltas of each."""
    found = []
    for anchors, logits, deltas in levels:
        order = np.argsort(-logits, kind="stable")[:limit]
        boxes = decode(deltas[order], anchors[order], 1.0, width, height)
        scores = 1 / (1 + np.exp(-logits[order]))
        found += [(boxes[index], scores[index]) for index in nms(boxes, scores, 0.7)[:limit]]
    found.sort(key=lambda pair: -pair[1])
    return found[:limit]


def detections(rois, logits, deltas, width, height, scale=1.0):
    """Boxes in original pixels, of which `scale` times as many are the network's: what overlaps is decided there."""
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    found = []
    for label in range(1, logits.shape[1]):
        std = np.array([0.1, 0.1, 0.2, 0.2])
        boxes = decode(deltas[:, label], rois, std, width, height) / scale
        chosen = np.flatnonzero(scores[:, label] > 0.05)
        kept = chosen[nms(boxes[chosen], scores[chosen, label], 0.5)]
        found += [(boxes[index], scores[index, label], label - 1) for index in kept]
    found.sort(key=lambda item: -item[1])
    return found[:100]


def nearest(mask, width, height):
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)


def level_of(boxes):
    w, h = sizes(boxes)
    return np.clip(np.floor(np.log2(np.sqrt(w * h) / 56 + 1e-6)), 0, 3).astype(int)


def roi_align(plane, box, scale, side):
    """`plane` [H, W]; bins of 2x2 samples."""
    height, width = plane.shape
    x1, y1 = box[0] * scale, box[1] * scale
    w, h = max((box[2] + 1) * scale - x1, 0), max((box[3] + 1) * scale - y1, 0)

    def sample(y, x):
        if y < -1 or y > height or x < -1 or x > width:
            return 0.0
        y, x = max(y, 0), max(x, 0)
        y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
        y, x = (y0 if y0 == height - 1 else y), (x0 if x0 == width - 1 else x)
        ya, xa = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        fy, fx = y - y0, x - x0
        top = plane[y0, x0] * (1 - fx) + plane[y0, xa] * fx
        return top * (1 - fy) + (plane[ya, x0] * (1 - fx) + plane[ya, xa] * fx) * fy

    pooled = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            at = [(y1 + (i + (a + 0.5) / 2) * h / side, x1 + (j + (b + 0.5) / 2) * w / side) for a in (0, 1) for b in (0, 1)]
            pooled[i, j] = np.mean([sample(*point) for point in at])
    return pooled


def mask_target(mask, box, side):
    x1, y1, x2, y2 = box.astype(int)
    w, h = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    return cv2.resize(mask[y1 : y1 + h, x1 : x1 + w], (side, side), interpolation=cv2.INTER_LINEAR)


def paste(probabilities, box, scale, width, height):
    x1, y1, x2, y2 = (box / scale).astype(np.int32)
    w, h = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    image = np.zeros((height, width), np.uint8)
    resized = cv2.resize(probabilities.astype(np.float32), (int(w), int(h)), interpolation=cv2.INTER_LINEAR)
    image[y1 : y1 + h, x1 : x1 + w] = (resized > 0.5)[: height - y1, : width - x1]
    return image


def random_boxes(count, width, height, whole=False):
    x, y = draw.uniform(0, width - 30, count), draw.uniform(0, height - 30, count)
    w, h = draw.uniform(3, width - x - 1), draw.uniform(3, height - y - 1)
    boxes = np.stack([x, y, x + w, y + h], 1)
    return np.round(boxes) if whole else f32(boxes)


def anchor_case():
    width, height = 150, 110
    levels = [(stride, -(-128 // stride), -(-160 // stride)) for stride in (4, 8, 16, 32, 64)]
    anchors = [grid_anchors(*level) for level in levels]
    return {
        "image": [height, width],
        "padded": [128, 160],
        "base": [base_anchors(stride).tolist() for stride, _, _ in levels],
        "last": [level[-1].tolist() for level in anchors],
        "num_inside": [int(inside(level, width, height).sum()) for level in anchors],
    }


def assignment_case(positive, negative, minimum):
    gt = np.array([[10, 10, 41, 41], [12, 12, 43, 43], [100, 20, 108, 90], [60, 60, 91, 91], [60, 60, 91, 91]], float)
    # A grid that gives boxes of whole pixels equal best IoU with several boxes.
    boxes = np.array([[x, y, x + 31, y + 31] for y in range(0, 110, 8) for x in range(0, 130, 8)], float)
    boxes = np.concatenate([boxes, gt[:2] + [1, 1, 1, 1], random_boxes(60, 150, 110, whole=True)])
    return {
        "thresholds": [positive, negative, minimum],
        "gt": gt.tolist(),
        "boxes": boxes.tolist(),
        "assigned": assign(boxes, gt, positive, negative, minimum).tolist(),
    }


def coding_case():
    boxes, gt = random_boxes(24, 150, 110), random_boxes(24, 150, 110)
    deltas = f32(draw.normal(0, 1.5, (24, 4)) * [1, 1, 2.5, 2.5])
    std = np.array([0.1, 0.1, 0.2, 0.2])
    return {
        "image": [110, 150],
        "boxes": boxes.tolist(),
        "gt": gt.tolist(),
        "encoded": encode(gt, boxes, 1.0).tolist(),
        "encoded_box_head": encode(gt, boxes, std).tolist(),
        "deltas": deltas.tolist(),
        "decoded": decode(deltas, boxes, 1.0, 150, 110).tolist(),
        "decoded_box_head": decode(deltas, boxes, std, 150, 110).tolist(),
    }


def proposal_case():
    levels = []
    for stride, rows, columns in ((16, 7, 10), (32, 4, 5)):
        anchors = grid_anchors(stride, rows, columns)
        logits = draw.permutation(len(anchors)) / len(anchors) * 6 - 3
        levels.append((anchors, f32(logits), f32(draw.normal(0, 0.1, (len(anchors), 4)))))
    found = proposals(levels, 150, 110, 60)
    return {
        "image": [110, 150],
        "limit": 60,
        "level_lens": [len(level[0]) for level in levels],
        "anchors": np.concatenate([level[0] for level in levels]).tolist(),
        "logits": np.concatenate([level[1] for level in levels]).tolist(),
        "deltas": np.concatenate([level[2] for level in levels]).tolist(),
        "boxes": [box.tolist() for box, _ in found],
        "scores": [float(score) for _, score in found],
    }


def detection_case():
    rois = random_boxes(60, 150, 110)
    logits, deltas = f32(draw.normal(0, 1.5, (60, 4))), f32(draw.normal(0, 1, (60, 4, 4)))
    found = detections(rois, logits, deltas, 150, 110)
    return {
        "image": [110, 150],
        "rois": rois.tolist(),
        "logits": logits.ravel().tolist(),
        "deltas": deltas.ravel().tolist(),
        "boxes": [box.tolist() for box, _, _ in found],
        "scores": [float(score) for _, score, _ in found],
        "labels": [label for _, _, label in found],
    }


def scaled_detection_case():
    """Small objects of an image that is enlarged: the `+ 1` of a width decides about some."""
    scale = f32(800 / 96)
    corners, sides = draw.uniform(0, 600, (20, 2)), draw.uniform(40, 120, (20, 2))
    objects = np.repeat(np.concatenate([corners, corners + sides], 1), 5, 0)
    count = len(objects)
    rois = f32(objects + draw.normal(0, 12, objects.shape))
    logits, deltas = f32(draw.normal(0, 1.5, (count, 3))), f32(draw.normal(0, 0.2, (count, 3, 4)))
    found = detections(rois, logits, deltas, 800, 800, scale)
    in_network_pixels = detections(rois, logits, deltas, 800, 800)
    assert [score for _, score, _ in found] != [score for _, score, _ in in_network_pixels]
    return {
        "image": [800, 800],
        "scale": float(scale),
        "rois": rois.tolist(),
        "logits": logits.ravel().tolist(),
        "deltas": deltas.ravel().tolist(),
        "boxes": [box.tolist() for box, _, _ in found],
        "scores": [float(score) for _, score, _ in found],
        "labels": [label for _, _, label in found],
    }


def training_mask_case():
    y, x = np.mgrid[:30, :44]
    mask = ((((x - 20) / 15.0) ** 2 + ((y - 16) / 11.0) ** 2 + 0.3 * np.sin(x / 2.0) < 1) & (x % 7 > 0)).astype(np.uint8)
    cases = []
    for width, height in ((44, 30), (97, 66), (88, 60), (31, 21), (22, 15), (110, 75)):
        resized = nearest(mask, width, height)
        cases.append({"to": [height, width], "plain": runs(resized), "flipped": runs(resized[:, ::-1])})
    return {"size": [30, 44], "columns": runs(mask.T), "cases": cases}


def roi_case():
    # A region of less than one cell and one that leaves the map, too. Sides around the levels' borders.
    sides = [1, 2, 50, 55, 56, 57, 111, 112, 113, 223, 224, 225, 447, 448, 449, 900]
    boxes = np.array([[3.25, 2.5, 2.25 + side, 1.5 + side] for side in sides])
    rows, columns = 26, 30
    planes = [
        np.array([[np.sin(0.7 * y + 0.3 * x * x + level) for x in range(-(-columns // 2**level))] for y in range(-(-rows // 2**level))])
        for level in range(4)
    ]
    planes = [f32(plane) for plane in planes]
    levels = level_of(boxes)
    pooled = [roi_align(planes[level], box, 1 / (4 * 2**level), 3) for box, level in zip(boxes, levels)]
    return {
        "boxes": boxes.tolist(),
        "levels": levels.tolist(),
        "planes": [plane.tolist() for plane in planes],
        "pooled": [plane.ravel().tolist() for plane in pooled],
    }


def runs(bits):
    """Lengths of equal values, starting with zeros."""
    lengths, value, count = [], 0, 0
    for bit in np.ravel(bits):
        if bit != value:
            lengths.append(count)
            value, count = bit, 0
        count += 1
    return [*map(int, lengths), count]


def mask_case():
    y, x = np.mgrid[:60, :80]
    mask = (((x - 35) / 28.0) ** 2 + ((y - 30) / 20.0) ** 2 + 0.3 * np.sin(x / 3.0) < 1).astype(np.uint8)
    boxes = np.concatenate([random_boxes(8, 80, 60), [[20.5, 20.5, 20.9, 20.9], [10, 8, 65, 63.0], [0, 0, 79, 59]]])
    boxes[:, 2:] = np.minimum(boxes[:, 2:], [79, 59])
    probabilities = f32(0.5 + 0.5 * np.sin(np.arange(28)[:, None] / 3.0) * np.cos(np.arange(28)[None] / 4.0))
    scale = 1.6
    found = random_boxes(8, 128, 96)
    return {
        "size": [60, 80],
        "mask": runs(mask),
        "boxes": f32(boxes).tolist(),
        "targets": [runs(mask_target(mask, box, 28)) for box in f32(boxes)],
        "probabilities": probabilities.ravel().tolist(),
        "scale": scale,
        "found": found.tolist(),
        "pasted": [runs(paste(probabilities, box, scale, 80, 60)) for box in found],
    }


def resize_case():
    cases = []
    for (height, width), (to_height, to_width) in (((13, 17), (29, 38)), ((40, 31), (23, 18)), ((9, 8), (18, 16)), ((16, 12), (8, 6))):
        y, x, c = np.mgrid[:height, :width, :3]
        image = ((x * x * 7 + y * y * 5 + c * 31 + x * y * 3) % 256).astype(np.uint8)
        resized = cv2.resize(image, (to_width, to_height), interpolation=cv2.INTER_LINEAR)
        cases.append({"from": [height, width], "to": [to_height, to_width], "pixels": resized.ravel().tolist()})
    return cases


def size_case():
    sizes = [[480, 640], [426, 640], [640, 359], [375, 500], [333, 500], [1000, 31], [612, 612]]
    fitted = []
    for height, width in sizes:
        factor = min(1333 / max(height, width), 800 / min(height, width))
        fitted.append([int(height * factor + 0.5), int(width * factor + 0.5), factor])
    box = [10, 20, 30.5, 41.25]  # x, y, w, h as in an annotation file
    x1, y1, x2, y2 = box[0], box[1], box[0] + box[2] - 1, box[1] + box[3] - 1
    boxes = []
    for (_, _), (new_height, new_width, factor) in zip(sizes, fitted):
        a, b, c, d = (value * factor for value in (x1, y1, x2, y2))
        flipped = np.clip([new_width - c - 1, b, new_width - a - 1, d], 0, [new_width - 1, new_height - 1] * 2)
        boxes.append([np.clip([a, b, c, d], 0, [new_width - 1, new_height - 1] * 2).tolist(), flipped.tolist()])
    return {"sizes": sizes, "fitted": fitted, "box": box, "boxes": boxes}


def main(out):
    fixture = {
        "anchors": anchor_case(),
        "assignments": [assignment_case(0.7, 0.3, 0.3), assignment_case(0.5, 0.5, 0.5)],
        "coding": coding_case(),
        "proposals": proposal_case(),
        "detections": detection_case(),
        "rois": roi_case(),
        "masks": mask_case(),
        "resize": resize_case(),
        "sizes": size_case(),
        "scaled_detections": scaled_detection_case(),
        "training_masks": training_mask_case(),
    }
    rounded = json.loads(json.dumps(fixture), parse_float=lambda text: float(f"{float(text):.9g}"))
    with open(out, "w") as file:
        json.dump(rounded, file, separators=(",", ":"))
        file.write("\n")


main(*sys.argv[1:])
