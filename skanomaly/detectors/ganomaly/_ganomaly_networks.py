"""GANomaly's networks, after DCGAN: encoders and a decoder, of convolutions of 4 x 4 without bias.

E   conv/2 C -> w, LeakyReLU; conv/2 that doubles the channels, batch norm, LeakyReLU, until the
    shorter side has 4 pixels; conv over all that is left -> the code
De  the same way back: conv-T from the code, then conv-T*2 that halve the channels, with batch norms
    and ReLU; the last one -> C, tanh
G   E1, De, E2:  z = E1(x), x' = De(z), z' = E2(x')
D   the form of E with a code of one number, the logit of "is real"
"""

import torch
from torch import nn

from skanomaly.utils.networks import seeded

LAST_SIDE = 4  # pixels of the shorter side that halvings end at
SLOPE = 0.2  # of LeakyReLU below 0
DEVIATION = 0.02  # of weights that are drawn


def count_halvings(height, width):
    """How often an input is halved until its shorter side has 4 pixels.

    Parameters
    ----------
    height, width : int

    Returns
    -------
    int

    Raises
    ------
    ValueError
        No number of halvings ends there, or both sides are not divisible as often.
    """
    shorter, n = min(height, width), 0
    while LAST_SIDE << n < shorter:
        n += 1
    if n < 2 or LAST_SIDE << n != shorter or height % (1 << n) or width % (1 << n):
        raise ValueError(
            "expected image_size, or tile_size, with a shorter side of 16, 32, 64, 128, ..., which "
            f"halvings bring to {LAST_SIDE}, and a longer one that is a multiple of a quarter of "
            f"it, got {height} x {width}"
        )
    return n


class Encoder(nn.Module):
    """From images to vectors.

    Parameters
    ----------
    size : tuple (H, W)
        Of the images, as :func:`count_halvings` has it.
    n_channels : int
        Of the images.
    width : int
        Channels of the first maps.
    n_outputs : int
        Of the vectors.
    """

    def __init__(self, size, n_channels, width, n_outputs):
        super().__init__()
        n = count_halvings(*size)
        channels = [n_channels, *(width << i for i in range(n))]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[i], channels[i + 1], 4, 2, 1, bias=False),
                nn.BatchNorm2d(channels[i + 1]) if i else nn.Identity(),
                nn.LeakyReLU(SLOPE, inplace=True),
            )
            for i in range(n)
        )
        grid = tuple(side >> n for side in size)
        self.last = nn.Conv2d(channels[-1], n_outputs, grid, bias=False)

    def maps(self, images):
        """Images (b, C, H, W) -> maps of all stages, (b, w, H/2, W/2) to (b, w * 2^n, ...)."""
        found = []
        for stage in self.stages:
            images = stage(images)
            found.append(images)
        return found

    def forward(self, images):
        """Images (b, C, H, W) -> vectors (b, n_outputs)."""
        return self.last(self.maps(images)[-1]).flatten(1)


class Decoder(nn.Module):
    """From vectors to images with values in [-1, 1]; parameters as of :class:`Encoder`."""

    def __init__(self, size, n_channels, width, n_inputs):
        super().__init__()
        n = count_halvings(*size)
        channels = [width << i for i in reversed(range(n))]
        grid = tuple(side >> n for side in size)
        stages = [_up(n_inputs, channels[0], grid, 1, 0)]
        stages += [_up(channels[i], channels[i + 1], 4, 2, 1) for i in range(n - 1)]
        self.stages = nn.Sequential(*stages)
        self.last = nn.ConvTranspose2d(width, n_channels, 4, 2, 1, bias=False)

    def forward(self, vectors):
        """Vectors (b, n_inputs) -> images (b, C, H, W)."""
        return torch.tanh(self.last(self.stages(vectors[:, :, None, None])))


def _up(before, after, kernel, stride, padding):
    convolution = nn.ConvTranspose2d(before, after, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class Generator(nn.Module):
    """Encoder, decoder, encoder.

    Parameters
    ----------
    size, n_channels, width : as of Encoder
    latent_size : int
        Numbers in a code.
    """

    def __init__(self, size, n_channels, width, latent_size):
        super().__init__()
        self.encoder = Encoder(size, n_channels, width, latent_size)
        self.decoder = Decoder(size, n_channels, width, latent_size)
        self.second_encoder = Encoder(size, n_channels, width, latent_size)

    def forward(self, images):
        """Images (b, C, H, W) in [-1, 1] -> codes z, reconstructions x' and their codes z'."""
        codes = self.encoder(images)
        restored = self.decoder(codes)
        return codes, restored, self.second_encoder(restored)


def draw_weights(module):
    """Draw a layer's weights: N(0, 0.02), those of batch norms N(1, 0.02) with biases of 0."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, DEVIATION)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, DEVIATION)
        nn.init.zeros_(module.bias)


def build_networks(size, n_channels, width, latent_size, seed=0):
    """Generator and discriminator with weights drawn from a seed, in memory with channels last.

    Parameters
    ----------
    size, n_channels, width, latent_size : as of Generator
    seed : int

    Returns
    -------
    ModuleDict with "generator" and "discriminator"
    """
    with seeded(seed):
        generator = Generator(size, n_channels, width, latent_size)
        discriminator = Encoder(size, n_channels, width, 1)
        networks = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
        return networks.apply(draw_weights).to(memory_format=torch.channels_last)
