"""ARNet's network R: a U-Net."""

import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.utils.networks import seeded

DOWN = (2, 4, 8, 8)  # channels after each halving, in widths
UP = (4, 2, 1, 1)  # and after each doubling
N_HALVINGS = len(DOWN)


class UNet(nn.Module):
    """From images to images: blocks of two convolutions on five scales, joined by skips.

    Parameters
    ----------
    n_channels : int
        Of the images.
    width : int
        Channels of the maps at full size.
    """

    def __init__(self, n_channels, width):
        super().__init__()
        down = [width, *(width * factor for factor in DOWN)]
        self.first = _block(n_channels, width)
        self.down = nn.ModuleList(_block(down[i], down[i + 1]) for i in range(N_HALVINGS))
        self.up, below = nn.ModuleList(), down[-1]
        for factor, beside in zip(UP, reversed(down[:-1]), strict=True):
            self.up.append(_block(below + beside, width * factor))
            below = width * factor
        self.last = nn.Conv2d(below, n_channels, 3, padding=1, bias=False)

    def forward(self, images):
        """Images (b, C, H, W), sides multiples of 16 -> images (b, C, H, W)."""
        maps = self.first(images)
        skips = []
        for block in self.down:
            skips.append(maps)
            maps = block(F.max_pool2d(maps, 2))
        for block in self.up:
            maps = F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
            maps = block(torch.cat([skips.pop(), maps], dim=1))
        return self.last(maps)


def _block(before, after):
    """Twice: convolution without bias, which batch norm makes idle, batch norm, ReLU."""
    layers = []
    for channels in (before, after):
        layers += [
            nn.Conv2d(channels, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def build_unet(n_channels, width, seed=0):
    """A U-Net with weights drawn from a seed, in memory with channels last."""
    with seeded(seed):
        return UNet(n_channels, width).to(memory_format=torch.channels_last)
