"""Where the patches of an image lie, and the way between patches and maps.

The patch in row r and column c of a grid has its upper left corner at the pixel (stride * r,
stride * c). Patches overlap: the stride is a small part of their side.
"""

from dataclasses import dataclass

import numpy as np

from skanomaly.detectors.global_local._global_net import (
    CELL,
    MIN_SURROUNDINGS,
    SMALLEST_EXACT_INPUT,
)
from skanomaly.detectors.global_local._local_net import LAYERS, network_stride, receptive_field
from skanomaly.images import linear_weights


@dataclass(frozen=True)
class PatchGrid:
    """The patches of an image.

    Parameters
    ----------
    side : int
        Of a patch, in pixels, one of ``LAYERS``.
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
        """Patches (rows, columns).

        The last ones may reach beyond the image, by what Local-Net does not read of them.
        """
        n_read = receptive_field(self.side)
        return tuple((n - n_read) // self.stride + 1 for n in (self.height, self.width))

    def origins(self):
        """Upper left corners of all patches, row by row: (n_patches, 2) int."""
        rows, columns = (self.stride * np.arange(n) for n in self.shape)
        return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)

    def centers(self):
        """Rows and columns of the patches' middle pixels."""
        return tuple(
            np.minimum(self.stride * np.arange(n) + self.side // 2, length - 1)
            for n, length in zip(self.shape, (self.height, self.width), strict=True)
        )

    def pool(self, maps):
        """Mean over each patch of maps that cover the image.

        Parameters
        ----------
        maps : ndarray of shape (b, h, w, C), float32
            Of any grid (h, w); a cell that lies partly in a patch counts by that part.

        Returns
        -------
        ndarray of shape (b, rows, columns, C), float32
        """
        rows, columns = (self._overlaps(maps.shape[1 + axis], axis) for axis in (0, 1))
        tall = np.tensordot(rows, maps, axes=(1, 1))  # (rows, b, w, C)
        pooled = np.tensordot(columns, tall, axes=(1, 2))  # (columns, rows, b, C)
        return pooled.transpose(2, 1, 0, 3)

    def _overlaps(self, n_cells, axis):
        """Share of each patch that lies in each cell along an axis: (patches, n_cells) float32."""
        length = (self.height, self.width)[axis]
        first = self.stride * np.arange(self.shape[axis])[:, None]  # (patches, 1)
        last = np.minimum(first + self.side, length)
        edges = np.linspace(0, length, n_cells + 1)
        overlap = np.minimum(last, edges[1:]) - np.maximum(first, edges[:-1])
        return (np.maximum(overlap, 0) / (last - first)).astype(np.float32)

    def interpolate(self, scores):
        """Scores of all cells of 4 x 4 pixels, bilinear between the patches' centers.

        Parameters
        ----------
        scores : ndarray of shape (rows, columns)
            Of the patches.

        Returns
        -------
        ndarray of shape (height // 4, width // 4)
            A cell nearer to the border than any patch's center has the nearest patch's score.
        """
        for axis, length in enumerate((self.height, self.width)):
            centers = CELL * (np.arange(length // CELL) + 0.5)  # of the cells, in pixels
            positions = (centers - self.side / 2) / self.stride  # in patches
            weights = linear_weights(positions, scores.shape[axis])  # (cells, patches)
            scores = np.moveaxis(np.tensordot(weights, scores, axes=(1, axis)), 0, axis)
        return scores


def patch_grids(patch_size, height, width, global_mode, hole_stride):
    """The patches that are scored, of each size.

    Parameters
    ----------
    patch_size : int or sequence of int
    height, width : int
        Of the input, in pixels.
    global_mode : {"dense", "exact"}
    hole_stride : int
        Pixels from one patch to the next in the exact mode.

    Returns
    -------
    tuple of PatchGrid

    Raises
    ------
    ValueError
        There are no networks for such patches or images.
    """
    sides = np.atleast_1d(patch_size)
    if sides.ndim != 1 or sides.dtype.kind not in "iu" or not np.isin(sides, list(LAYERS)).all():
        sides = sides[:0]
    sides = sides.tolist()
    if not sides or len(set(sides)) < len(sides):
        raise ValueError(
            f"expected patch_size as one of {list(LAYERS)}, or several of them, got {patch_size!r}"
        )
    smallest = max(sides) + MIN_SURROUNDINGS
    if height % 8 or width % 8 or min(height, width) < smallest:
        raise ValueError(
            f"expected image_size, or tile_size, in multiples of 8, at least {smallest} so that "
            f"there is something around a patch of {max(sides)} pixels, got {height} x {width}"
        )
    if global_mode == "exact" and min(height, width) < SMALLEST_EXACT_INPUT:
        raise ValueError(
            f"expected image_size, or tile_size, of at least {SMALLEST_EXACT_INPUT} for "
            f'global_mode="exact", whose network reads so many pixels, got {height} x {width}; '
            'take 256, or "dense"'
        )
    if hole_stride % 8:
        raise ValueError(f"expected hole_stride as a multiple of 8, got {hole_stride}")
    stride = hole_stride if global_mode == "exact" else CELL
    return tuple(PatchGrid(p, height, width, max(stride, network_stride(p))) for p in sides)
