"""A backbone whose stages are followed by spatial transformers, as in RegAD and FYD."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.detectors._frozen_norms import with_norms_joined
from skanomaly.training import IDENTITIES, inverse, matrices, warp

LOCALIZATION_CHANNELS = (64, 16)
LOCALIZATION_UNITS = 1024


class SpatialTransformer(nn.Module):
    """Finds a transform from maps and applies it to them (Jaderberg et al., 2015).

    Parameters
    ----------
    channels : int
    grid : tuple (h, w)
    mode : str
        One of ``IDENTITIES``. At first the transform is the identity.
    """

    def __init__(self, channels, grid, mode):
        super().__init__()
        self.mode = mode
        first, second = LOCALIZATION_CHANNELS
        cells = [math.ceil(side / 4) for side in grid]  # two poolings, each rounding up
        self.localization = nn.Sequential(
            *_convolution(channels, first),
            *_convolution(first, second),
            nn.Flatten(),  # (b, second * cells)
            nn.Linear(second * cells[0] * cells[1], LOCALIZATION_UNITS),
            nn.ReLU(),
            nn.Linear(LOCALIZATION_UNITS, len(IDENTITIES[mode])),
        )
        # Zero weights: every image starts with the bias, which is the identity.
        nn.init.zeros_(self.localization[-1].weight)
        with torch.no_grad():
            self.localization[-1].bias.copy_(torch.tensor(IDENTITIES[mode], dtype=torch.float32))

    def forward(self, maps):
        """Maps (b, C, h, w) -> the same transformed, and theta (b, 2, 3)."""
        theta = matrices(self.localization(maps), self.mode)
        return warp(maps, theta), theta


def _convolution(before, after):
    return (
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    )


class Registration(nn.Module):
    """Stages of a backbone, each followed by a transformer; encoder and predictor.

    Parameters
    ----------
    stages : list of nn.Module
        Each takes the maps that the one before returns.
    shapes : list of tuple (C, h, w)
        Of the stages' maps.
    mode : str or None
        Of the transformers; None: there are none.

    References
    ----------
    Huang et al., "Registration based Few-Shot Anomaly Detection", ECCV 2022.
    """

    def __init__(self, stages, shapes, mode):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self._joined = None
        self.transformers = nn.ModuleList(
            SpatialTransformer(c, (h, w), mode) for c, h, w in shapes if mode is not None
        )
        c = shapes[-1][0]
        self.encoder = nn.Sequential(*_pointwise(c), *_pointwise(c), nn.Conv2d(c, c, 1))
        self.predictor = nn.Sequential(*_pointwise(c), nn.Conv2d(c, c, 1))

    @property
    def device(self):
        """Where the weights are."""
        return self.encoder[0].weight.device

    def train(self, mode=True):
        """As any module, but normalization in the stages keeps the statistics it came with.

        Those of a batch are of one category; in RegAD the scored images do not belong to it.
        """
        super().train(mode)
        for part in self.stages.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, images):
        """Registered maps of each stage.

        Parameters
        ----------
        images : tensor of shape (b, 3, H, W)

        Returns
        -------
        list of tuple (maps, theta)
            Maps (b, C, h, w), and the transform (b, 2, 3) that registered them; None without
            transformers.
        """
        maps, registered = images, []
        for i, stage in enumerate(self._stages_to_call()):
            maps, theta = stage(maps), None
            if self.transformers:
                maps, theta = self.transformers[i](maps)
            registered.append((maps, theta))
        return registered

    def _stages_to_call(self):
        """The stages; in training they are joined, on first use, with the same parameters."""
        if not self.training:
            return self.stages
        if self._joined is None:  # a list, so that no parameter is found twice
            self._joined = [with_norms_joined(stage) for stage in self.stages]
        return self._joined

    def _apply(self, *arguments, **options):
        self._joined = None  # it may hold tensors that are not moved with the module
        return super()._apply(*arguments, **options)

    def __getstate__(self):
        return {**super().__getstate__(), "_joined": None}

    def features(self, images):
        """Maps (b, C, h, w) by stage, registered and then moved back to where they came from.

        A stage sees what all transformers before it have moved: their transforms are undone one by
        one, the last one first.
        """
        thetas, moved_back = [], []
        for maps, theta in self(images):
            thetas.append(theta)
            for one in reversed(thetas):
                maps = maps if one is None else warp(maps, inverse(one))
            moved_back.append(maps)
        return moved_back

    def loss(self, maps, support):
        """Symmetric negative cosine similarity of predictions p and encodings z (eq. 1 and 2).

            L = (D(p_1, z_2) + D(p_2, z_1)) / 2,   D(p, z) = -<p, z> / (|p| |z|)

        averaged over images and places. No gradient flows through z.

        Parameters
        ----------
        maps, support : tensors of shape (b, C, h, w)
            Registered maps of images, and the mean of those of each image's support.

        Returns
        -------
        tensor of shape ()
            -1 where both agree everywhere, up to 1.
        """
        encoded, encoded_support = self.encoder(maps), self.encoder(support)
        there = -F.cosine_similarity(self.predictor(encoded), encoded_support.detach(), dim=1)
        back = -F.cosine_similarity(self.predictor(encoded_support), encoded.detach(), dim=1)
        return (there.mean() + back.mean()) / 2


def _pointwise(channels):
    return nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()


def cosine_descent(
    network, learning_rate, head_learning_rate, momentum, n_epochs, further_groups=()
):
    """Gradient descent of a Registration, its rates falling to 0 along a cosine.

    Parameters
    ----------
    network : Registration
    learning_rate : float
    head_learning_rate : float or None
        Of encoder and predictor; None: the same.
    momentum : float
    n_epochs : int
    further_groups : sequence of dict, default=()
        Groups of other parameters, each with its rate, as torch's optimizers take them.

    Returns
    -------
    optimizer : torch.optim.SGD
    scheduler : torch.optim.lr_scheduler.CosineAnnealingLR
    """
    heads = [*network.encoder.parameters(), *network.predictor.parameters()]
    rest = [*network.stages.parameters(), *network.transformers.parameters()]
    groups = [
        {"params": rest, "lr": learning_rate},
        {"params": heads, "lr": head_learning_rate or learning_rate},
        *further_groups,
    ]
    optimizer = torch.optim.SGD(groups, learning_rate, momentum=momentum)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(n_epochs, 1))
