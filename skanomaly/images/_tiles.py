"""Tiles of an image, and the maps of tiles as one map of the whole image.

The tiles lie on a grid of rows and columns, so that all of it is done axis by axis. Where tiles
overlap, their maps are blended: a tile's weight is 0 in the outer quarter of the overlap, where a
network sees its border, rises over the next half, and is 1 further inside. At the border of the
image itself it stays 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from skanomaly.images._fitting import ImageFit, linear_weights

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Tiling:
    """Division of an image into overlapping tiles of one size.

    Parameters
    ----------
    height, width : int
        Size of the image in pixels.
    tile_height, tile_width : int
        Size of the tiles in pixels.
    overlap : int
        Pixels that neighboring tiles have in common, at least: the last tile of a row or a column
        ends with the image.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    overlap: int

    @classmethod
    def of(cls, size: ImageFit, tile_size: Any, overlap: int) -> Self:
        """Create for images of a size, with a tile's side or its height and width.

        Raises
        ------
        ValueError
            A tile is larger than the image, or the overlap as large as a tile.
        """
        height, width = tile_sides(tile_size)
        if height > size.height or width > size.width:
            raise ValueError(
                f"tile_size must be at most the size of the image, {size.height} x {size.width} "
                f"pixels, got {height} x {width}; make it smaller, or leave it out"
            )
        if overlap >= min(height, width):
            raise ValueError(
                f"tile_overlap must be smaller than a tile of {height} x {width} pixels, got "
                f"{overlap}; an eighth of the tile is usual"
            )
        return cls(size.height, size.width, height, width, int(overlap))

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Boxes (top, left, bottom, right) of the tiles, row by row, ends exclusive."""
        tops, lefts = (_starts(*axis) for axis in self._axes())
        return [
            (top, left, top + self.tile_height, left + self.tile_width)
            for top in tops
            for left in lefts
        ]

    def cut(self, image: np.ndarray, size: ImageFit) -> Iterator[np.ndarray]:
        """Tiles (tile_height, tile_width, C) float32 in [0, 1] of an image from read_image.

        An image of the very size is not resampled, and converted tile by tile.
        """
        if image.shape[:2] != (self.height, self.width):
            image = size.apply(image)
        tile = ImageFit(self.tile_height, self.tile_width)
        for top, left, bottom, right in self.boxes:
            yield tile.apply(image[top:bottom, left:right])

    def grid(self, tile_grid: Grid) -> Grid:
        """Rows and columns of the whole image's map, from those (h, w) of a tile's."""
        return tuple(
            _n_cells(length, tile, n)
            for (length, tile, _), n in zip(self._axes(), tile_grid, strict=True)
        )

    def add(self, whole: np.ndarray, number: int, maps: np.ndarray) -> None:
        """Add a tile's share to the map of the whole image.

        Parameters
        ----------
        whole : ndarray of shape (H, W, C), float32
            Zeros before the first tile is added.
        number : int
            Which tile it is, counted as in ``boxes``.
        maps : ndarray of shape (h, w, C), float32
        """
        rows, columns = (
            _shares(*axis, n) for axis, n in zip(self._axes(), maps.shape[:2], strict=True)
        )
        (top, tall), (left, wide) = rows[number // len(columns)], columns[number % len(columns)]
        h, w, c = maps.shape
        share = (tall @ maps.reshape(h, w * c)).reshape(len(tall), w, c)
        share = wide @ share  # (rows, columns, C)
        whole[top : top + len(tall), left : left + len(wide)] += share

    def _axes(self):
        return (
            (self.height, self.tile_height, self.overlap),
            (self.width, self.tile_width, self.overlap),
        )


def tile_sides(tile_size: Any) -> tuple[int, int]:
    """Height and width of a tile, from its side or a pair of these.

    Raises
    ------
    ValueError
        It is neither, or less than 8 pixels.
    """
    sides = (tile_size, tile_size) if np.isscalar(tile_size) else tuple(tile_size)
    if len(sides) != 2 or not all(isinstance(one, (int, np.integer)) and one >= 8 for one in sides):
        raise ValueError(
            f"tile_size must be an int or a pair (height, width), of at least 8 pixels, got "
            f"{tile_size!r}"
        )
    return int(sides[0]), int(sides[1])


@lru_cache(maxsize=64)
def _starts(length, tile, overlap):
    """First pixels of the tiles along an axis."""
    step = tile - overlap
    return [*range(0, length - tile, step), length - tile]


def _n_cells(length, tile, n):
    """Cells along an axis of the whole image, of the size of those of a tile."""
    return max(1, round(length * n / tile))


@lru_cache(maxsize=64)
def _shares(length, tile, overlap, n):
    """For each tile along an axis: its first cell of the whole, and the matrix (cells, n).

    Cells of the whole that lie on those of the tile get their value, others one that is linearly
    interpolated; either times the tile's weight.
    """
    n_cells, starts = _n_cells(length, tile, n), _starts(length, tile, overlap)
    centers = (np.arange(n_cells) + 0.5) * (length / n_cells)  # pixels
    weights = np.stack(
        [_weights(centers - start, tile, overlap, start == 0, start == starts[-1])
         for start in starts]
    )  # fmt: skip
    weights /= weights.sum(axis=0)
    shares = []
    for start, weight in zip(starts, weights, strict=True):
        used = np.flatnonzero(weight)
        first, end = (used[0], used[-1] + 1) if len(used) else (0, 0)
        places = (centers[first:end] - start) * (n / tile) - 0.5
        matrix = weight[first:end, None].astype(np.float32) * linear_weights(places, n)
        shares.append((int(first), matrix))
    return shares


def _weights(places, tile, overlap, is_first, is_last):
    """Weights of a tile at places in it, in pixels; 0 outside."""
    is_inside = (places >= 0) & ((places <= tile) if is_last else (places < tile))
    if overlap == 0:
        return is_inside.astype(float)
    before = np.inf if is_first else places
    after = np.inf if is_last else tile - places
    depth = np.minimum(before, after)  # in the tile, from the next side that has a neighbor
    return is_inside * np.clip((depth - overlap / 4) / (overlap / 2), 0, 1)
