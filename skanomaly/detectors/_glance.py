"""A patch compared with what its surroundings say of it: GlobalLocal's networks for one patch size.

Z_l   Local-Net's vector of the patch
Z_g   Global-Net's vector from all but the patch
IAD   mean (Z_l - Z_g)^2, or the logarithm of it
DAD   1 - C(Z_l, Z_g), C the probability that the patch is clean, or -log C
"""

import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.detectors._global_networks import DenseGlobalNet, ExactGlobalNet
from skanomaly.detectors._local_network import (
    CELL,
    N_FEATURES,
    LocalNet,
    network_stride,
)
from skanomaly.feature_extraction._backbones import seeded

HEAD_UNITS = 128
HEAD_SLOPE = 0.01
CLEAN, STAINED = 0, 1  # classes of the DAD head
SMALLEST_IAD = 1e-12  # where its logarithm is taken


class Glance(nn.Module):
    """Local-Net, Global-Net and the DAD head.

    Parameters
    ----------
    side : int
        Of a patch, in pixels.
    n_channels : int
        Of the images.
    mode : {"dense", "exact"}
    dtype : {"float32", "bfloat16"}
        Of the nets' convolutions.
    seed : int
        Of the first weights.
    """

    def __init__(self, side, n_channels, mode, dtype="float32", seed=0):
        super().__init__()
        self.side, self.mode = side, mode
        with seeded(seed):
            self._build(side, n_channels, mode, dtype)
        self.to(memory_format=torch.channels_last)

    def _build(self, side, n_channels, mode, dtype):
        self.local = LocalNet(side, n_channels, dtype)
        if mode == "exact":
            self.context = ExactGlobalNet(n_channels, dtype)
        else:
            self.context = DenseGlobalNet(n_channels, -(-side // CELL), dtype)
        self.head = nn.Sequential(
            nn.Linear(2 * N_FEATURES, HEAD_UNITS),
            nn.LeakyReLU(HEAD_SLOPE),
            nn.Linear(HEAD_UNITS, 2),
        )

    def local_vectors(self, images, grid):
        """Z_l of all patches of images (b, C, H, W): (b, rows, columns, 128)."""
        every = grid.stride // network_stride(self.side)
        return self.local(images)[:, :, ::every, ::every].permute(0, 2, 3, 1)

    def global_vectors(self, images, grid):
        """Z_g of all patches, (b, rows, columns, 128)."""
        if self.mode == "dense":
            return self.context(images, grid).permute(0, 2, 3, 1)
        origins = torch.from_numpy(grid.origins())
        answers = [self.context.holes(one, origins, self.side) for one in images]
        return torch.stack(answers).reshape(len(images), *grid.shape, N_FEATURES)

    def scores(self, images, grid, logs):
        """s_IAD and s_DAD of all patches, or log s_IAD and -log C, (b, rows, columns, 2)."""
        found, expected = self.local_vectors(images, grid), self.global_vectors(images, grid)
        difference = iad(found, expected)
        if not logs:
            return torch.stack([difference, self.dad(found, expected)], dim=-1)
        clean = self.logits(found, expected).log_softmax(dim=-1)[..., CLEAN]
        return torch.stack([difference.clamp_min(SMALLEST_IAD).log(), -clean], dim=-1)

    def dad(self, found, expected):
        """Probability that patches are stained, 1 - C."""
        return self.logits(found, expected).softmax(dim=-1)[..., STAINED]

    def logits(self, found, expected):
        """Of the classes clean and stained, (..., 2)."""
        return self.head(torch.cat([found, expected], dim=-1))

    def loss(self, clean, stained, expected, expected_of_stained, dad_weight):
        """l_IAD + dad_weight * l_DAD.

        Parameters
        ----------
        clean, expected : tensor of shape (n, 128)
            Z_l and Z_g of clean patches, which alone enter l_IAD: Global-Net is not to learn
            what stains look like.
        stained, expected_of_stained : tensor of shape (m, 128)
            Z_l of stained patches and Z_g, which sees nothing of the stain.
        """
        logits = self.logits(clean, expected), self.logits(stained, expected_of_stained)
        classes = [
            torch.full((len(one),), label)
            for one, label in zip(logits, (CLEAN, STAINED), strict=True)
        ]
        # Both classes count alike, however many patches are stained.
        parts = [F.cross_entropy(one, label) for one, label in zip(logits, classes, strict=True)]
        return iad(clean, expected).mean() + dad_weight * sum(parts) / 2


def iad(found, expected):
    """Mean squared difference of Z_l and Z_g over their entries."""
    return (found - expected).square().mean(dim=-1)


def ready(pictures):
    """As the networks take them: float32, channels last in memory."""
    return pictures.float().contiguous(memory_format=torch.channels_last)
