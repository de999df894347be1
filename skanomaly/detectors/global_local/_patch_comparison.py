"""PatchComparison: GlobalLocal's networks for one patch size.

Z_l   Local-Net's embedding of the patch, (128,)
Z_g   Global-Net's prediction of it from all but the patch, (128,)
IAD   inconsistency: mean (Z_l - Z_g)^2, or the logarithm of it
DAD   distortion: 1 - C(Z_l, Z_g), C the probability that the patch is clean, or -log C
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.detectors.global_local._global_net import CELL, DenseGlobalNet, ExactGlobalNet
from skanomaly.detectors.global_local._local_net import EMBEDDING_SIZE, LocalNet, network_stride
from skanomaly.utils.networks import seeded

HEAD_UNITS = 128
HEAD_SLOPE = 0.01  # of LeakyReLU below 0
CLEAN, STAINED = 0, 1  # classes of the DAD head
SMALLEST_IAD = 1e-12  # where its logarithm is taken


@dataclass(frozen=True)
class Architecture:
    """What the networks of all patch sizes are built from.

    Parameters
    ----------
    grids : tuple of PatchGrid
        The patches that are scored, of each size.
    n_channels : int
        Of the images.
    global_mode : {"dense", "exact"}
    dtype : {"float32", "bfloat16"}
        Of the convolutions.
    """

    grids: tuple
    n_channels: int
    global_mode: str
    dtype: str

    def build(self, seed=0):
        """Untrained networks, a ModuleDict of PatchComparison by the patch's side, as str."""
        return nn.ModuleDict(
            {
                str(grid.side): PatchComparison(
                    grid.side, self.n_channels, self.global_mode, self.dtype, seed
                )
                for grid in self.grids
            }
        )


class PatchComparison(nn.Module):
    """Local-Net, Global-Net and the DAD head.

    Parameters
    ----------
    side : int
        Of a patch, in pixels.
    n_channels : int
        Of the images.
    global_mode : {"dense", "exact"}
    dtype : {"float32", "bfloat16"}, default="float32"
        Of the convolutions; embeddings and scores are float32.
    seed : int, default=0
        Of the initial weights.
    """

    def __init__(self, side, n_channels, global_mode, dtype="float32", seed=0):
        super().__init__()
        self.side, self.global_mode = side, global_mode
        with seeded(seed):
            self.local_net = LocalNet(side, n_channels, dtype)
            if global_mode == "exact":
                self.global_net = ExactGlobalNet(n_channels, dtype)
            else:
                n_cells = -(-side // CELL)  # that the patch touches
                self.global_net = DenseGlobalNet(n_channels, n_cells, dtype)
            self.dad_head = nn.Sequential(
                nn.Linear(2 * EMBEDDING_SIZE, HEAD_UNITS),
                nn.LeakyReLU(HEAD_SLOPE),
                nn.Linear(HEAD_UNITS, 2),
            )
        self.to(memory_format=torch.channels_last)

    def prepare(self, images):
        """Images (b, C, H, W) as the networks take them.

        On their device, float32, and with the channels last in memory, for which convolutions are
        faster.
        """
        images = images.to(next(self.parameters()).device).float()
        return images.contiguous(memory_format=torch.channels_last)

    def local_embeddings(self, images, grid):
        """Z_l of all patches of images (b, C, H, W): (b, rows, columns, 128)."""
        every = grid.stride // network_stride(self.side)
        return self.local_net(images)[:, :, ::every, ::every].permute(0, 2, 3, 1)

    def global_embeddings(self, images, grid):
        """Z_g of all patches of images (b, C, H, W): (b, rows, columns, 128)."""
        if self.global_mode == "dense":
            return self.global_net(images, grid).permute(0, 2, 3, 1)
        origins = torch.from_numpy(grid.origins())
        predicted = [self.global_net.predict_holes(one, origins, self.side) for one in images]
        return torch.stack(predicted).reshape(len(images), *grid.shape, EMBEDDING_SIZE)

    def scores(self, images, grid, logs):
        """Scores of all patches, high for a defect.

        Parameters
        ----------
        images : tensor of shape (b, C, H, W), float32
        grid : PatchGrid
        logs : bool
            Whether the scores are log s_IAD and -log C instead of s_IAD and s_DAD.

        Returns
        -------
        tensor of shape (b, rows, columns, 2), float32
        """
        local, predicted = self.local_embeddings(images, grid), self.global_embeddings(images, grid)
        difference = inconsistency(local, predicted)
        if not logs:
            return torch.stack([difference, self.distortion(local, predicted)], dim=-1)
        # Not the logarithm of a probability, which is 0 where the classifier is sure.
        log_clean = self.logits(local, predicted).log_softmax(dim=-1)[..., CLEAN]
        return torch.stack([difference.clamp_min(SMALLEST_IAD).log(), -log_clean], dim=-1)

    def distortion(self, local, predicted):
        """s_DAD = 1 - C of patches by their embeddings (..., 128): (...,) in [0, 1]."""
        return self.logits(local, predicted).softmax(dim=-1)[..., STAINED]

    def logits(self, local, predicted):
        """Logits of the classes clean and stained, (..., 2), by embeddings (..., 128)."""
        return self.dad_head(torch.cat([local, predicted], dim=-1))

    def loss(self, clean, stained, predicted, predicted_of_stained, dad_weight):
        """Loss of the joint training, l_IAD + dad_weight * l_DAD.

        Parameters
        ----------
        clean, predicted : tensor of shape (n, 128)
            Z_l and Z_g of clean patches. They alone enter l_IAD: Global-Net is not to learn what
            stains look like.
        stained, predicted_of_stained : tensor of shape (m, 128)
            Z_l of stained patches and their Z_g, which sees nothing of the stain.
        dad_weight : float

        Returns
        -------
        tensor of shape ()
        """
        logits = self.logits(clean, predicted), self.logits(stained, predicted_of_stained)
        classes = [
            torch.full((len(one),), label, device=one.device)
            for one, label in zip(logits, (CLEAN, STAINED), strict=True)
        ]
        # Both classes count alike, however many patches are stained.
        parts = [F.cross_entropy(one, label) for one, label in zip(logits, classes, strict=True)]
        return inconsistency(clean, predicted).mean() + dad_weight * sum(parts) / 2


def inconsistency(local, predicted):
    """s_IAD, the mean squared difference of embeddings (..., 128) over their entries: (...,)."""
    return (local - predicted).square().mean(dim=-1)


def standardize(pixels, mean, scale):
    """Images (n, H, W, C) float32 in [0, 1] -> tensor (n, C, H, W), standardized by channel."""
    images = (pixels - mean) / scale
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
