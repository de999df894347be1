"""PatchCore and PaDiM as torch modules: {layer: maps (n, C, h, w)} in, scores of patches out.

Each returns the score maps (n, h, w) and, where ``image_score`` is "paper", the images' scores
(n,), else None; both high for a defect. D numbers per patch, m rows in a bank.
"""

from itertools import count, takewhile

import numpy as np
import torch
import torch.nn.functional as F

from skanomaly.density import PositionwiseGaussian
from skanomaly.embedding import finest_grid
from skanomaly.images import upsampling
from skanomaly.neighbors import PatchIndex


class Embedding(torch.nn.Module):
    """One vector per patch, (n, cells, D), as :func:`skanomaly.embedding.embed` has it."""

    def __init__(
        self, layer_shapes, patch_size, channels=None, interpolation="bilinear", scales=()
    ):
        super().__init__()
        self.grid, self.patch_size = finest_grid(layer_shapes), patch_size
        self.interpolation, self.scales = interpolation, dict(scales)
        self.layer_shapes, self.channels, first = layer_shapes, {}, 0
        for name, (_, _, n_channels) in layer_shapes.items():
            if channels is not None:
                start, stop = np.searchsorted(channels, (first, first + n_channels))
                self.channels[name] = torch.tensor(channels[start:stop] - first)
            first += n_channels

    def forward(self, layers):
        parts = [self._part(name, layers[name]) for name in self.layer_shapes]  # (n, C, H, W)
        return torch.cat(parts, 1).flatten(2).transpose(1, 2)

    def _part(self, name, maps):
        shape, size = self.layer_shapes[name][:2], self.patch_size
        if name in self.channels:
            maps = maps[:, self.channels[name]]
        if size > 1 and shape != (1, 1):  # zeros beyond the border count
            maps = F.avg_pool2d(maps, size, 1, size // 2)
        if self.scales.get(name, 1.0) != 1.0:
            maps = maps * self.scales[name]
        if shape == self.grid:
            return maps
        if self.interpolation == "nearest":
            for axis, (n, to) in enumerate(zip(shape, self.grid, strict=True), start=2):
                maps = maps.index_select(axis, (2 * torch.arange(to) + 1) * n // (2 * to))
            return maps
        rows, columns = (
            torch.tensor(upsampling(n, to)) for n, to in zip(shape, self.grid, strict=True)
        )
        return rows @ maps @ columns.T


class PatchCoreModule(torch.nn.Module):
    """Distances to the nearest rows of the memory bank."""

    def __init__(self, detector):
        super().__init__()
        self.embedding = Embedding(
            detector.layer_shapes_, detector.patch_size, scales=detector.layer_scales_
        )
        self.n_neighbors = detector.n_neighbors
        bank = np.asarray(detector.memory_bank_, dtype=np.float64)  # (m, D)
        center = bank.mean(axis=0)
        half_squares = np.square(bank - center).sum(axis=1) / 2
        # Relative to the center, so that the products below lose few digits.
        self.register_buffer("center", torch.tensor(center, dtype=torch.float32))
        self.register_buffer("bank", torch.tensor(bank - center, dtype=torch.float32))
        self.register_buffer("half_squares", torch.tensor(half_squares, dtype=torch.float32))
        self.reweights = detector.image_score == "paper" and detector.n_reweight > 0
        if self.reweights:
            index = PatchIndex().fit(detector.memory_bank_)
            around = index.kneighbors(detector.memory_bank_, min(detector.n_reweight, len(bank)))[1]
            self.register_buffer("around", torch.tensor(around))  # (m, n_reweight)
        self.has_image_score = detector.image_score == "paper"

    def forward(self, layers):
        patches = self.embedding(layers) - self.center  # (n, cells, D)
        # Smallest where the distance is: |p - b|^2 = |p|^2 + 2 (|b|^2 / 2 - p b).
        order = self.half_squares - patches @ self.bank.T  # (n, cells, m)
        nearest = order.topk(self.n_neighbors, 2, largest=False).indices
        # Once more of the rows found, from their differences: a small distance keeps its digits.
        distances = self._distances(patches, nearest)  # (n, cells, n_neighbors)
        cells = distances.mean(2)
        maps = cells.unflatten(1, self.embedding.grid)
        if not self.has_image_score:
            return maps, None
        scores, worst = cells.max(1)
        if not self.reweights:
            return maps, scores
        at_worst = worst[:, None, None].expand(-1, -1, patches.shape[2])
        patch = patches.gather(1, at_worst)  # (n, 1, D)
        own = nearest[..., 0].gather(1, worst[:, None])  # (n, 1)
        among = self._distances(patch, self.around[own])[:, 0]  # (n, n_reweight)
        to_own = self._distances(patch, own[..., None])[:, 0, 0]  # (n,)
        return maps, scores * (1 - torch.exp(to_own - torch.logsumexp(among, 1)))

    def _distances(self, patches, rows):
        """Of patches (n, p, D) to rows of the bank by number, (n, p, k)."""
        return (patches[:, :, None] - self.bank[rows]).square().sum(3).sqrt()


class PaDiMModule(torch.nn.Module):
    """Mahalanobis distances to the Gaussian of each position."""

    def __init__(self, detector):
        super().__init__()
        self.embedding = Embedding(
            detector.layer_shapes_, detector.patch_size, detector.channels_, "nearest"
        )
        gaussian: PositionwiseGaussian = detector.gaussian_.finish()
        self.is_low_rank = gaussian.form_ == "low_rank"
        names = ("basis", "variances", "ridge") if self.is_low_rank else ()
        state = gaussian.get_state()
        for name in names:
            self.register_buffer(name, torch.tensor(state[name]))
        if not self.is_low_rank:
            self.register_buffer("factor", torch.tensor(_joined(state)))  # (cells, d, d)
        mean = gaussian.mean_.reshape(-1, gaussian.shape_[2])  # (cells, d)
        self.register_buffer("mean", torch.tensor(mean))
        self.has_image_score = detector.image_score == "paper"

    def forward(self, layers):
        u = (self.embedding(layers) - self.mean).permute(1, 2, 0)  # (cells, d, n)
        squared = self._low_rank(u) if self.is_low_rank else (self.factor @ u).square().sum(1)
        maps = squared.sqrt().T.unflatten(1, self.embedding.grid)
        return maps, maps.amax((1, 2)) if self.has_image_score else None

    def _low_rank(self, u):
        """u' Sigma^-1 u from the part of u in the basis and the rest, (cells, n)."""
        inside = self.basis @ u  # (cells, rank, n)
        rest = u - self.basis.transpose(1, 2) @ inside
        along = (inside.square() / self.variances[:, :, None]).sum(1)
        return along + rest.square().sum(1) / self.ridge[:, None]


def _joined(state):
    """The lower triangular factors (cells, d, d), from the stripes of rows they are kept in."""
    names = takewhile(state.__contains__, (f"factors_{i}" for i in count()))
    stripes = [state[name] for name in names]  # (cells, rows, columns) each, more and more columns
    d = stripes[-1].shape[2]
    padded = [np.pad(one, ((0, 0), (0, 0), (0, d - one.shape[2]))) for one in stripes]
    return np.concatenate(padded, axis=1)
