"""FYD's network: a transformer of the image, then the registered stages of a backbone.

ICA  T(x)      a rotation and a translation of the image, found on it at 64 x 64 pixels
FCA  T_l(f)    a transform of the maps of each stage, found on them
FA   z = E(f)  encodings of the last stage's maps, and p = P(z) predictions of other images' z
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.detectors._backbone_stages import cut, map_shapes, normalize
from skanomaly.detectors._registration_model import (
    LOCALIZATION_UNITS,
    Registration,
    SpatialTransformer,
)
from skanomaly.feature_extraction import backbones
from skanomaly.training import inverse, matrices, warp
from skanomaly.utils.networks import seeded

IMAGE_MODES = ("rotation", "translation", "rotation_translation")
SMALL_SIDE = 64  # pixels of the images that transforms are found on, and compared on


class ImageTransformer(SpatialTransformer):
    """Finds a rotation and a translation of images; at first the identity.

    Parameters
    ----------
    mode : str
        One of ``IMAGE_MODES``.
    """

    def __init__(self, mode):
        super().__init__(3, (SMALL_SIDE, SMALL_SIDE), mode)

    def forward(self, images):
        """Images (b, 3, H, W) -> theta (b, 2, 3)."""
        height, width = images.shape[2:]
        # The identity of these modes is 0. Of so many units a sum would leave it in one step.
        parameters = self.localization(shrink(images)) / math.sqrt(LOCALIZATION_UNITS)
        theta = matrices(parameters, self.mode)
        # In coordinates of the sides, a rotation of pixels of an oblong image has other sines.
        return theta * theta.new_tensor([[1, height / width, 1], [width / height, 1, 1]])


def shrink(images):
    """Images (b, 3, H, W) at 64 x 64 pixels: (b, 3, 64, 64)."""
    size = (SMALL_SIDE, SMALL_SIDE)
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


class CoarseToFine(nn.Module):
    """The transformer of images, and the registration of their maps.

    Parameters
    ----------
    registration : Registration
    backbone : str
        By whose mean and deviation images are normalized.
    image_mode : str or None
        One of ``IMAGE_MODES``; None: images stay as they are.
    """

    def __init__(self, registration, backbone, image_mode):
        super().__init__()
        self.registration, self.backbone = registration, backbone
        self.image_transformer = None if image_mode is None else ImageTransformer(image_mode)

    @property
    def device(self):
        """Where the weights are."""
        return self.registration.device

    def find(self, images):
        """Transforms (b, 2, 3) of images (b, 3, H, W) in [0, 1]; None without a transformer."""
        return None if self.image_transformer is None else self.image_transformer(images)

    def forward(self, images, theta):
        """Images (b, 3, H, W) in [0, 1], moved by theta -> what Registration makes of them."""
        return self.registration(self._moved(images, theta))

    def features(self, images):
        """Maps (b, C, h, w) by stage, registered and then moved back to where they came from."""
        theta = self.find(images)
        maps = self.registration.features(self._moved(images, theta))
        return maps if theta is None else [warp(one, inverse(theta)) for one in maps]

    def _moved(self, images, theta):
        return normalize(images if theta is None else warp(images, theta), self.backbone)


def build_network(backbone, stages, weights, size, modes, seed):
    """The network, in memory with channels last, on the CPU.

    Parameters
    ----------
    backbone : str
    stages : sequence of 3 str
    weights : str, Path or None
        Of the backbone; None: drawn from the seed.
    size : tuple (H, W)
        Of the images.
    modes : tuple (image_mode, mode)
        Of the image's transformer and of those of the maps; None: there is none.
    seed : int

    Returns
    -------
    network : CoarseToFine
    shapes : list of tuple (C, h, w)
        Of the stages' maps.
    """
    image_mode, mode = modes
    parts = cut(backbones.load_network(backbone, weights, seed), stages)
    shapes = map_shapes(parts, *size)
    with seeded(seed):
        network = CoarseToFine(Registration(parts, shapes, mode), backbone, image_mode)
    return network.to(memory_format=torch.channels_last), shapes
