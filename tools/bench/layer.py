"""PyTorch's side of `cargo xtask bench-peers layer`: `NORM B C H W`, a training step of a 3x3 convolution and its norm.

NORM is bn, gn, cbn or one of our own forms, cbn-sampled, cbn-through-weight and cbn-exact-1024: here they are cbn.

PyTorch has no Cross-Iteration Batch Normalization. The one here is written from the paper's formulas (docs/cbn.md) the
way that automatic differentiation offers: two further backward passes per iteration, and past weights kept for the
compensation.
"""

import collections
import functools

import torch
from torch import nn

import server

LAYOUT = server.torch_layout()
SETTLING_STEPS = 5

Past = collections.namedtuple("Past", "weight mean second mean_gradient second_gradient")


class CrossIterationConv(nn.Module):
    """A convolution and the norm of its last `window` iterations, the current one included."""

    def __init__(self, channels, window=4, epsilon=1e-5):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon
        self.history = collections.deque(maxlen=window - 1)

    def forward(self, x):
        weight = self.conv.weight
        y = self.conv(x)
        mean, second = y.mean((0, 2, 3)), y.square().mean((0, 2, 3))
        # A channel's moments depend on its own filter alone, so the gradient of their sum holds every channel's.
        gradients = [torch.autograd.grad(moment.sum(), weight, retain_graph=True)[0] for moment in (mean, second)]
        means, seconds = self.compensated(weight.detach())
        is_valid = (seconds >= means.square()).float()
        count = is_valid.sum(0) + 1
        window_mean = ((means * is_valid).sum(0) + mean) / count
        window_second = ((seconds * is_valid).sum(0) + second) / count
        self.history.append(Past(weight.detach().clone(), mean.detach(), second.detach(), *gradients))

        variance = (window_second - window_mean.square()).clamp_min(0)
        scale = self.gamma * torch.rsqrt(variance + self.epsilon)
        shift = self.beta - window_mean * scale
        return y * scale[:, None, None] + shift[:, None, None]

    def compensated(self, weight):
        """First and second moments of the past iterations under the current weight, [W, C] each."""
        means, seconds = [weight.new_zeros(0, len(weight))], [weight.new_zeros(0, len(weight))]
        for past in self.history:
            moved = weight - past.weight
            means.append((past.mean + (past.mean_gradient * moved).sum((1, 2, 3)))[None])
            seconds.append((past.second + (past.second_gradient * moved).sum((1, 2, 3)))[None])
        return torch.cat(means), torch.cat(seconds)


def layer(norm, channels):
    if norm.startswith("cbn"):
        return CrossIterationConv(channels)
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels) if norm == "bn" else nn.GroupNorm(32, channels))


@functools.cache
def case(request):
    norm, *sizes = request.split(" ")
    batch, channels, height, width = (int(size) for size in sizes)
    module = layer(norm, channels).to(memory_format=LAYOUT)
    x = torch.randn(batch, channels, height, width).contiguous(memory_format=LAYOUT).requires_grad_()
    upstream = torch.ones_like(x.detach(), memory_format=torch.preserve_format)

    def step():
        x.grad = None
        module.zero_grad(set_to_none=True)
        module(x).backward(upstream)

    for _ in range(SETTLING_STEPS):
        step()
    return step


server.serve(lambda request: (server.shorter(case(request)), ""))
