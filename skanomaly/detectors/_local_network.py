"""Local-Net of GlobalLocal: what a patch itself looks like, as one vector.

L           convolutions without padding that take a patch to a vector (1, 1, 128); on a whole image
            the same convolutions answer all patches at once, a stride apart
l_k         mean |D(L(p)) - R(p)|^2: distillation from the teacher's R(p) through a linear D
l_c         mean c_ij^2 over i != j, c the correlations of the vector's entries over a batch
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from skanomaly._image_fit import linear_weights

N_FEATURES = 128
SLOPE = 0.005  # of LeakyReLU below 0
EXACT_SIDE = 243  # pixels of an image's side that the exact Global-Net reads
LEAST_SURROUNDINGS = 15  # pixels: with fewer, there are patches around which nothing is seen
CELL = 4  # pixels: patches begin at multiples of it, or at every second one

# Kernel and channels of each convolution by the patch's side, None for a pooling by two.
LAYERS = {
    17: ((3, 128), None, (5, 256), (3, N_FEATURES)),
    33: ((3, 128), None, (5, 256), None, (2, 256), (4, N_FEATURES)),
    65: ((3, 128), None, (5, 128), None, (5, 256), None, (4, N_FEATURES)),
}


def network_stride(side):
    """Pixels between the patches that Local-Net answers for on a larger image."""
    return 2 ** LAYERS[side].count(None)


def reach(side):
    """Pixels of a patch's side that Local-Net reads, from the patch's upper left corner."""
    n_pixels, jump = 1, 1
    for layer in LAYERS[side]:
        n_pixels += ((2 if layer is None else layer[0]) - 1) * jump
        jump *= 2 if layer is None else 1
    return n_pixels


@dataclass(frozen=True)
class PatchGrid:
    """Where the patches of an image lie.

    Parameters
    ----------
    side : int
        Of a patch, in pixels.
    height, width : int
        Of the image.
    stride : int
        Pixels from one patch to the next, a multiple of ``network_stride(side)``.
    """

    side: int
    height: int
    width: int
    stride: int

    @property
    def shape(self):
        """Patches (rows, columns)."""
        return tuple((n - reach(self.side)) // self.stride + 1 for n in (self.height, self.width))

    def origins(self):
        """Upper left corners of all patches row by row, (n, 2) int."""
        rows, columns = (self.stride * np.arange(n) for n in self.shape)
        return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)

    def pool(self, maps):
        """Mean over each patch of maps (b, h, w, C) that cover the image: (b, rows, columns, C)."""
        rows, columns = (self._shares(maps.shape[1 + axis], axis) for axis in (0, 1))
        tall = np.tensordot(rows, maps, axes=(1, 1))  # (rows, b, w, C)
        return np.tensordot(columns, tall, axes=(1, 2)).transpose(2, 1, 0, 3)

    def _shares(self, n_cells, axis):
        """Matrix (patches along the axis, n_cells): how much of each patch lies in each cell."""
        length = (self.height, self.width)[axis]
        first = self.stride * np.arange(self.shape[axis])[:, None]
        last = np.minimum(first + self.side, length)
        edges = np.linspace(0, length, n_cells + 1)
        overlap = np.minimum(last, edges[1:]) - np.maximum(first, edges[:-1])
        return (np.maximum(overlap, 0) / (last - first)).astype(np.float32)

    def spread(self, scores):
        """Scores (rows, columns) of patches -> of all cells, (height / 4, width / 4), bilinearly.

        A cell nearer to the border than any patch's centre has the nearest patch's score.
        """
        for axis, length in enumerate((self.height, self.width)):
            centres = CELL * (np.arange(length // CELL) + 0.5)
            places = (centres - self.side / 2) / self.stride
            weights = linear_weights(places, scores.shape[axis])
            scores = np.moveaxis(np.tensordot(weights, scores, axes=(1, axis)), 0, axis)
        return scores


def grids_of(patch_size, image_fit, mode, hole_stride):
    """The patches of each size that are judged, a list of PatchGrid.

    Raises ValueError where there are no networks for such patches or images.
    """
    sides = np.atleast_1d(patch_size)
    height, width = image_fit.height, image_fit.width
    if sides.ndim != 1 or sides.dtype.kind not in "iu" or not np.isin(sides, list(LAYERS)).all():
        sides = sides[:0]
    sides = sides.tolist()
    if not sides or len(set(sides)) < len(sides):
        raise ValueError(
            f"expected patch_size as one of {list(LAYERS)}, or several of them, got {patch_size!r}"
        )
    smallest = max(sides) + LEAST_SURROUNDINGS
    if height % 8 or width % 8 or min(height, width) < smallest:
        raise ValueError(
            f"expected image_size in multiples of 8, at least {smallest} so that there is "
            f"something around a patch of {max(sides)} pixels, got {height} x {width}"
        )
    if mode == "exact" and min(height, width) < EXACT_SIDE:
        raise ValueError(
            f'expected image_size of at least {EXACT_SIDE} for global_mode="exact", whose network '
            f'reads so many pixels, got {height} x {width}; take 256, or "dense"'
        )
    if hole_stride % 8:
        raise ValueError(f"expected hole_stride as a multiple of 8, got {hole_stride}")
    stride = hole_stride if mode == "exact" else CELL
    return [PatchGrid(p, height, width, max(stride, network_stride(p))) for p in sides]


class LocalNet(nn.Sequential):
    """Vectors of patches (b, C, side, side), (b, 128, 1, 1), or of all patches of larger images.

    Parameters
    ----------
    side : int
        Of the patch in pixels, one of ``LAYERS``.
    n_channels : int
        Of the images.
    dtype : {"float32", "bfloat16"}
        Of the convolutions; the vectors are float32.
    """

    def __init__(self, side, n_channels, dtype="float32"):
        layers = []
        for layer in LAYERS[side]:
            if layer is None:
                layers.append(nn.MaxPool2d(2))
                continue
            kernel, out = layer
            layer = nn.Conv2d(n_channels, out, kernel)
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)  # answers of one scale in all layers
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.LeakyReLU(SLOPE)]
            n_channels = out
        super().__init__(*layers)
        self.dtype = dtype

    def forward(self, images):
        with convolving_in(self.dtype):
            return super().forward(images).float()


def convolving_in(dtype):
    """Context in which convolutions are computed in "float32" or "bfloat16"."""
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")


def distillation_loss(decoded, taught):
    """Mean squared difference from the teacher's vectors, both (n, n_teacher)."""
    return (decoded - taught).square().mean()


def compactness_loss(vectors):
    """Mean squared correlation of two different entries over a batch of vectors (n, d)."""
    centred = vectors - vectors.mean(dim=0)
    unit = centred / (centred.square().sum(dim=0) + 1e-12).sqrt()
    correlation = unit.T @ unit  # (d, d)
    d = len(correlation)
    return (correlation.square().sum() - correlation.diagonal().square().sum()) / (d * (d - 1))
