"""PyTorch's side of `cargo xtask bench-peers conv`: `forward|backward B C H W K KERNEL STRIDE`."""

import functools

import torch

import server

LAYOUT = server.torch_layout()


@functools.lru_cache(maxsize=1)
def operands(batch, channels, height, width, out_channels, kernel, stride):
    def random(*shape):
        return torch.rand(shape).sub_(0.5).contiguous(memory_format=LAYOUT)

    x, weight = random(batch, channels, height, width), random(out_channels, channels, kernel, kernel)
    y = torch.conv2d(x, weight, stride=stride, padding=kernel // 2)
    return x, weight, random(*y.shape)


def repetition(request):
    direction, *sizes = request.split(" ")
    sizes = [int(size) for size in sizes]
    x, weight, grad_y = operands(*sizes)
    kernel, stride = sizes[-2:]
    geometry = ([stride] * 2, [kernel // 2] * 2, [1, 1])
    if direction == "forward":
        seconds = server.shorter(lambda: torch.conv2d(x, weight, None, *geometry))
    else:
        backward = torch.ops.aten.convolution_backward
        seconds = server.shorter(
            lambda: backward(grad_y, x, weight, None, *geometry, False, [0, 0], 1, [True, True, False])
        )
    return seconds, ""


with torch.inference_mode():
    server.serve(repetition)
