"""How the gradient's part along the weight, and the weight's length, develop while a small network trains.

    python tools/figures/weight_length.py CIFAR_FOLDER docs/results/weight_length.jsonl
    cargo xtask figures

Three convolutions with norm and ReLU on CIFAR-10 at batch 2, SGD with momentum 0.9, without weight decay, 600 steps. The norms are restated here in
PyTorch, with autograd, apart from the crate: batch norm, and CBN (window 4, first order, eps 1e-5) whose past moments are constants or functions of the weight.
For every tenth step a line per norm: the means over the last ten steps and the three layers of |<dL/dw, w>| / (|dL/dw| |w|) and of |w| / |w at the start|.
"""

import json
import sys
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F

STEPS, BATCH, WINDOW, RATE, EPS = 600, 2, 4, 0.01, 1e-5
MODES = ["batch norm", "CBN, past constant", "CBN, past through the weight"]


class Layer:
    """A 3x3 convolution and its norm."""

    def __init__(self, c_in, c_out, mode):
        self.weight = (torch.randn(c_out, c_in, 3, 3) * (2 / (9 * c_in)) ** 0.5).requires_grad_()
        self.gamma = torch.ones(c_out, requires_grad=True)
        self.beta = torch.zeros(c_out, requires_grad=True)
        self.mode, self.past, self.start = mode, [], self.weight.norm().item()

    def __call__(self, x):
        c_out = self.weight.shape[0]
        y = F.conv2d(x, self.weight, padding=1)
        mean, second = y.mean((0, 2, 3)), y.square().mean((0, 2, 3))
        means, seconds, valid = [mean], [second], [torch.ones_like(mean)]
        flat = self.weight.view(c_out, -1)
        if self.mode == MODES[1]:
            flat = flat.detach()
        for patch, mean_s, second_s, slope, w_s in self.past:
            mean_s = mean_s + (flat - w_s) @ patch
            second_s = second_s + ((flat - w_s) * slope).sum(1)
            is_valid = (second_s >= mean_s.square()).float().detach()
            means.append(mean_s * is_valid)
            seconds.append(second_s * is_valid)
            valid.append(is_valid)
        count = sum(valid)
        mean, second = sum(means) / count, sum(seconds) / count
        if self.mode != MODES[0]:
            self.remember(x.detach(), y.detach())
        scale = self.gamma / (second - mean.square() + EPS).sqrt()
        return F.relu((y - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + self.beta.view(1, -1, 1, 1))

    def remember(self, x, y):
        c_out = self.weight.shape[0]
        patches = F.unfold(x, 3, padding=1).transpose(0, 1).flatten(1)
        values = y.transpose(0, 1).flatten(1)
        slope = 2 * values @ patches.T / values.shape[1]
        entry = (patches.mean(1), values.mean(1), values.square().mean(1), slope, self.weight.detach().view(c_out, -1).clone())
        self.past = [entry, *self.past][: WINDOW - 1]


def read(folder):
    records = numpy.frombuffer((Path(folder) / "data_batch_1.bin").read_bytes(), numpy.uint8).reshape(-1, 3073)
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()).float() / 127.5 - 1
    return F.avg_pool2d(images, 2), torch.from_numpy(records[:, 0].copy()).long()


def train(mode, images, labels):
    torch.manual_seed(0)
    layers = [Layer(3, 16, mode), Layer(16, 16, mode), Layer(16, 16, mode)]
    classifier = torch.nn.Linear(16, 10)
    parameters = [p for layer in layers for p in (layer.weight, layer.gamma, layer.beta)] + list(classifier.parameters())
    sgd = torch.optim.SGD(parameters, RATE, momentum=0.9)
    order = torch.randperm(len(images))
    along, lines = [], []
    for step in range(1, STEPS + 1):
        batch = order[(step - 1) * BATCH : step * BATCH]
        x = images[batch]
        for layer in layers:
            x = layer(x)
        loss = F.cross_entropy(classifier(x.mean((2, 3))), labels[batch])
        sgd.zero_grad()
        loss.backward()
        for layer in layers:
            gradient, weight = layer.weight.grad.flatten(), layer.weight.detach().flatten()
            along.append((gradient @ weight / (gradient.norm() * weight.norm())).abs().item())
        sgd.step()
        if step % 10 == 0:
            growth = sum(layer.weight.norm().item() / layer.start for layer in layers) / len(layers)
            lines.append({"norm": mode, "step": step, "along_weight": sum(along) / len(along), "length": growth})
            along = []
    return lines


def main():
    torch.set_num_threads(1)
    images, labels = read(sys.argv[1])
    lines = [line for mode in MODES for line in train(mode, images, labels)]
    Path(sys.argv[2]).write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
