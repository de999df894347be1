"""MKD's cloner: the source's layers, one computed from the other through a narrow neck.

stage     as many convolutions of 3 x 3 as VGG-16 has at this stride, two at 2 and 4 and three from
          8 on, without bias: each gives w channels, followed by batch norm and ReLU, but the last
          one, which gives the layer's channels, without batch norm
layer     nonnegative: conv, ReLU, max-pool 2, as VGG-16's;   other: max-pool 2, conv
between   grids that the source has no layer on: a stage of its own, which ends with w channels
VGG-16    w w | w 128 | w w 256 | w w 512 | w w 512 at w = 16, "|" a pooling: 343,728 weights
"""

import math

import torch
from torch import nn

from skanomaly.utils.networks import seeded

FULL_STRIDE = 8  # from which on a stage has three convolutions


def build_cloner(size, n_channels, layers, is_nonnegative, width, seed=0):
    """A cloner with weights drawn from a seed.

    Parameters
    ----------
    size : tuple (H, W)
        Of the images.
    n_channels : int
        Of the images.
    layers : dict of str to tuple (h, w, C)
        Of the source, from the finest grid to the coarsest.
    is_nonnegative : sequence of bool
        By layer.
    width : int
        Channels of the neck.
    seed : int, default=0

    Returns
    -------
    Cloner
    """
    with seeded(seed):
        cloner = Cloner(size, n_channels, layers.values(), is_nonnegative, width)
    return cloner.to(memory_format=torch.channels_last)


class Cloner(nn.Module):
    """A small network whose stages end with the source's layers.

    Parameters
    ----------
    size : tuple (H, W)
    n_channels : int
    shapes : iterable of tuple (h, w, C)
    is_nonnegative : sequence of bool
    width : int
    """

    def __init__(self, size, n_channels, shapes, is_nonnegative, width):
        super().__init__()
        self.stages, grid, stride = nn.ModuleList(), tuple(size), 1
        for (*target, n_out), is_last_relu in zip(shapes, is_nonnegative, strict=True):
            n_halvings = round(math.log2(math.prod(grid) / math.prod(target)) / 2)
            parts = []
            for _ in range(n_halvings - 1):
                stride *= 2
                grid = tuple(side // 2 for side in grid)
                parts += _stage(n_channels, width, width, stride, nn.MaxPool2d(2), True)
                n_channels = width
            stride *= 2 if n_halvings > 0 else 1
            pool = _pooling(grid, tuple(target))
            parts += _stage(n_channels, width, n_out, stride, pool, is_last_relu)
            self.stages.append(nn.Sequential(*parts))
            grid, n_channels = tuple(target), n_out
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, images):
        """Images (b, C, H, W) in [0, 1] -> maps (b, C, h, w) of the layers, a list."""
        found = []
        for stage in self.stages:
            images = stage(images)
            found.append(images)
        return found


def _stage(n_in, width, n_out, stride, pool, is_nonnegative):
    """Modules from n_in channels to n_out, with the pooling that leads to a stride."""
    n_convolutions = 3 if stride >= FULL_STRIDE else 2
    parts = []
    for _ in range(n_convolutions - 1):
        parts += [_convolution(n_in, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        n_in = width
    last = _convolution(n_in, n_out)
    return [*parts, last, nn.ReLU(inplace=True), pool] if is_nonnegative else [*parts, pool, last]


def _convolution(n_in, n_out):
    return nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)


def _pooling(grid, target):
    """The module from a grid to the layer's."""
    if grid == target:
        return nn.Identity()
    if tuple(side // 2 for side in grid) == target:
        return nn.MaxPool2d(2)
    return nn.AdaptiveMaxPool2d(target)
