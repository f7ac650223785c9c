"""torchvision's side of `cargo xtask bench-peers data`: batches of two, decoded, resized, normalised, padded.

usage: load.py ANNOTATIONS IMAGES pillow|torchvision
"""

import json
import pathlib
import sys

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import detector
import server

annotations, images_dir, decoder = sys.argv[1:]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def read_with_torchvision(path):
    return decode_image(path, mode=ImageReadMode.RGB).float() / 255


class Images(Dataset):
    def __init__(self):
        folder = pathlib.Path(images_dir)
        images = json.loads(pathlib.Path(annotations).read_text())["images"]
        self.paths = [folder / image["file_name"] for image in images]
        self.read = detector.read if decoder == "pillow" else read_with_torchvision

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.read(str(self.paths[index]))


class Batch:
    """Runs in the worker, so that a batch crosses over to this process once and whole."""

    def __init__(self):
        self.transform = GeneralizedRCNNTransform(800, 1333, MEAN, STD).eval()

    def __call__(self, images):
        return self.transform(images)[0].tensors


def main():
    torch.set_num_threads(1)
    loader = DataLoader(
        Images(), batch_size=2, num_workers=server.THREADS, collate_fn=Batch(), persistent_workers=True
    )

    def repetition(_request):
        seconds, count = server.timed(lambda: sum(len(batch) for batch in loader))
        return seconds, count

    server.serve(repetition)


if __name__ == "__main__":
    main()
