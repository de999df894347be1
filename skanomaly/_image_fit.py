"""Fit images into a network's input, and bring score maps back into the images' own frames.

``ImageFit`` brings an image to one size and knows, per axis, the straight line from the image's
pixels to the input's pixels. The same line serves for the way back, so a score map always has the
image's own H x W.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d

RESIZE_MODES = ("stretch", "pad", "crop")


@dataclass(frozen=True)
class ImageFit:
    """How images of any size are brought to the network's input, and maps back.

    Parameters
    ----------
    height, width : int
        Size of the network's input in pixels.
    resize : {"stretch", "pad", "crop"}
        "stretch" changes the aspect ratio; "pad" keeps it and repeats the border pixels around
        the image; "crop" keeps it and cuts the longer side down to its centre.
    """

    height: int
    width: int
    resize: str = "stretch"

    @classmethod
    def from_size(cls, image_size, resize):
        """From an int (square) or a pair (height, width)."""
        height, width = (image_size, image_size) if np.isscalar(image_size) else image_size
        return cls(int(height), int(width), resize)

    def axes(self, frame):
        """Per axis (scale, first, last): input pixel = scale * image pixel + first; see Notes.

        For both rows and columns: position u in the input, in pixels from its upper left corner,
        is ``scale * y + first`` for position y in the image. ``last`` is where the image ends.
        """
        frame_height, frame_width = frame
        sizes = (self.height, self.width)
        ratios = (self.height / frame_height, self.width / frame_width)
        if self.resize == "stretch":
            return tuple((r, 0.0, float(n)) for r, n in zip(ratios, sizes, strict=True))
        if self.resize == "pad":
            used = [max(1, round(min(ratios) * n)) for n in frame]
            starts = [(n - u) // 2 for n, u in zip(sizes, used, strict=True)]
        else:
            used = [max(ratios) * n for n in frame]
            starts = [(n - u) / 2 for n, u in zip(sizes, used, strict=True)]
        return tuple(
            (u / n, float(s), float(s + u)) for u, n, s in zip(used, frame, starts, strict=True)
        )

    def apply(self, image):
        """(H, W, C) of any dtype read_image gives -> (height, width, C) float32 in [0, 1]."""
        (rows, top, bottom), (columns, left, right) = self.axes(image.shape[:2])
        # What of the image is seen (all of it unless cropped), and how large it becomes.
        seen = (
            max(0.0, -left / columns),
            max(0.0, -top / rows),
            min(image.shape[1], (self.width - left) / columns),
            min(image.shape[0], (self.height - top) / rows),
        )
        inside = (
            (max(0, round(top)), min(self.height, round(bottom))),
            (max(0, round(left)), min(self.width, round(right))),
        )
        (first_row, end_row), (first_column, end_column) = inside
        resized = _resample(image, (end_column - first_column, end_row - first_row), seen)
        around = (
            (first_row, self.height - end_row),
            (first_column, self.width - end_column),
            (0, 0),
        )
        return np.pad(resized, around, mode="edge") if any(map(any, around)) else resized

    def way_back(self, grid, frame, sigma):
        """Matrices (H, h) and (W, w) with ``rows @ patch_scores @ columns.T`` the score map.

        Bilinear from the grid to the input, Gaussian of sigma input pixels, bilinear from the
        input to the frame: each is linear and works on one axis at a time, so all three are one
        matrix per axis. What a crop left out takes the value of the nearest pixel seen.
        """
        sizes = (self.height, self.width)
        return tuple(
            _interpolation(n_frame, size, *line) @ _smoothing(n_grid, size, float(sigma))
            for n_grid, size, n_frame, line in zip(
                grid, sizes, frame, self.axes(frame), strict=True
            )
        )

    def cell_edges(self, grid, frame):
        """Per axis the image's pixel lines between the cells of a grid (h, w) over the input.

        A pixel belongs to the cell in which its centre lies: those of row i of cells are the rows
        ``edges[i]`` to ``edges[i + 1] - 1`` of the image, none where the row lies in padding.
        """
        edges = []
        for n_cells, size, n_frame, (scale, first, _) in zip(
            grid, (self.height, self.width), frame, self.axes(frame), strict=True
        ):
            lines = (np.arange(n_cells + 1) * (size / n_cells) - first) / scale
            first_centres = np.ceil(lines - 0.5 - 1e-9)  # a hair for the rounding of a tie
            edges.append(np.clip(first_centres, 0, n_frame).astype(int))  # (n_cells + 1,)
        return tuple(edges)

    def cell_size(self, grid, frame):
        """Height and width of a cell in the image's own pixels, as fractions of them."""
        (rows, *_), (columns, *_) = self.axes(frame)
        return self.height / grid[0] / rows, self.width / grid[1] / columns

    def cell_at(self, grid, frame, pixel):
        """Row and column of the cell in which a pixel lies; the nearest one where cropped off."""
        return tuple(
            int(np.clip(np.searchsorted(edges, place, side="right") - 1, 0, n_cells - 1))
            for edges, place, n_cells in zip(self.cell_edges(grid, frame), pixel, grid, strict=True)
        )

    def cell_box(self, grid, frame, cell):
        """Box (top, left, bottom, right) of a cell in the image's own pixels, the ends outside.

        It has a pixel at least: for a cell that lies in padding the nearest of the image.
        """
        starts, ends = [], []
        for edges, place in zip(self.cell_edges(grid, frame), cell, strict=True):
            starts.append(int(min(edges[place], edges[-1] - 1)))
            ends.append(int(max(edges[place + 1], starts[-1] + 1)))
        return *starts, *ends

    def smooth(self, patch_scores, sigma):
        """(b, h, w) -> (b, height, width): resized to the input and smoothed."""
        rows = _smoothing(patch_scores.shape[1], self.height, float(sigma))
        columns = _smoothing(patch_scores.shape[2], self.width, float(sigma))
        return rows @ patch_scores @ columns.T

    def to_frame(self, patch_scores, frame, sigma):
        """(h, w) -> (H, W) float32: the score map in the image's own frame."""
        rows, columns = self.way_back(patch_scores.shape, tuple(frame), sigma)
        return rows @ patch_scores.astype(np.float32, copy=False) @ columns.T


def _resample(image, size, box):
    """Antialiased bilinear resize of the box (left, top, right, bottom) to (width, height)."""
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        pixels = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        resized = np.asarray(pixels.resize(size, Image.Resampling.BILINEAR, box=box))
        return resized.reshape(size[1], size[0], -1).astype(np.float32) / np.float32(255)
    full_scale = np.float32({"u1": 255, "u2": 65535}.get(image.dtype.str[1:], 1))
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(image[:, :, c], dtype=np.float32)).resize(
                size, Image.Resampling.BILINEAR, box=box
            )
        )
        for c in range(image.shape[2])
    ]
    return np.stack(channels, axis=-1) / full_scale


def linear_weights(positions, n):
    """Matrix (len(positions), n) of linear interpolation between n cell centres 0 .. n - 1."""
    positions = np.clip(positions, 0, n - 1)
    lower = np.minimum(positions.astype(int), max(n - 2, 0))
    weights = np.zeros((len(positions), n), dtype=np.float32)
    every = np.arange(len(positions))
    np.add.at(weights, (every, lower), 1 - (positions - lower))
    np.add.at(weights, (every, np.minimum(lower + 1, n - 1)), positions - lower)
    return weights


@lru_cache(maxsize=256)
def upsampling(n_from, n_to):
    """Matrix (n_to, n_from): bilinear along one axis, cell edges aligned."""
    centres = (np.arange(n_to) + 0.5) * (n_from / n_to) - 0.5
    return linear_weights(centres, n_from)


@lru_cache(maxsize=256)
def _smoothing(n_grid, n_input, sigma):
    to_input = upsampling(n_grid, n_input)
    return gaussian_filter1d(to_input, sigma, axis=0) if sigma > 0 else to_input


@lru_cache(maxsize=256)
def _interpolation(n_frame, n_input, scale, first, last):
    """Linear interpolation at the centres of the image's pixels, inside what was image."""
    centres = (np.arange(n_frame) + 0.5) * scale + first - 0.5
    inside = np.clip(centres, max(first, 0), min(last, n_input) - 1)
    return linear_weights(inside, n_input)
