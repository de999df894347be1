"""TDG's networks: a patch discriminator and a generator for each scale."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

N_BLOCKS = 4
MARGIN = N_BLOCKS + 1  # pixels that the convolutions, which pad nothing, take from each edge
FIELD = 2 * MARGIN + 1  # side of the patch that a logit is about, in pixels
SLOPE = 0.2
DEVIATION = 0.02  # of initial weights


class PatchDiscriminator(nn.Sequential):
    """D: logits of the M transformations and of "generated", for each patch of 11 x 11 pixels.

    Parameters
    ----------
    n_channels : int
    width : int
    n_transformations : int

    Notes
    -----
    (b, C, s, s) -> (b, M + 1, s - 10, s - 10)
    """

    def __init__(self, n_channels, width, n_transformations):
        super().__init__(*_blocks(n_channels, width, n_transformations + 1))
        self.apply(_initialize).to(memory_format=torch.channels_last)  # the fastest


class Generator(nn.Module):
    """G: an image of a scale, from noise and the image of the scale below.

    Parameters
    ----------
    n_channels : int
    width : int
    """

    def __init__(self, n_channels, width):
        super().__init__()
        self.layers = nn.Sequential(*_blocks(n_channels + 1, width, n_channels))
        self.layers.apply(_initialize).to(memory_format=torch.channels_last)

    def forward(self, noise, below, places):
        """tanh(...) + the image below.

        Parameters
        ----------
        noise, below : tensors of shape (b, C, s, s)
            What is added to the image of the scale below, and that image at this scale's size.
        places : tensor of shape (b,)
            In [0, 1], by which the network tells training images apart: its last channel.

        Returns
        -------
        tensor of shape (b, C, s, s)
        """
        plane = places[:, None, None, None].expand(-1, 1, *below.shape[2:])
        inputs = F.pad(torch.cat([below + noise, plane], dim=1), (MARGIN,) * 4)
        return torch.tanh(self.layers(inputs)) + below


def scale_width(scale):
    """Channels of the networks of a scale, the coarsest being 0: twice as many every fourth."""
    return 32 * 2 ** (scale // 4)


def build_discriminators(n_channels, n_scales, n_transformations):
    """The discriminators of all scales, the coarsest first: a ModuleList."""
    return nn.ModuleList(
        PatchDiscriminator(n_channels, scale_width(scale), n_transformations)
        for scale in range(n_scales)
    )


def _blocks(n_in, width, n_out):
    widths, layers = [n_in] + N_BLOCKS * [width], []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3), nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE)]
    return [*layers, nn.Conv2d(width, n_out, 3)]


def _initialize(layer):
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0, DEVIATION)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1, DEVIATION)
