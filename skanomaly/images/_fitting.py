"""Resize images to the input size of a network, and score maps back to the size of the image.

For each axis, ``ImageFit`` defines the linear function from pixels of the image to pixels of the
input. Its inverse maps score maps back, so that they always have the H x W of the image.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d

RESIZE_MODES = ("stretch", "pad", "crop")
LEAST_WEIGHT = 1e-6  # of the patches that count, at a pixel that has a score


@dataclass(frozen=True)
class ImageFit:
    """Transform from images of any size to the input of a network, and back for score maps.

    Parameters
    ----------
    height, width : int
        Size of the input in pixels.
    resize : {"stretch", "pad", "crop"}, default="stretch"
        "stretch" changes the aspect ratio; "pad" keeps it and repeats the border pixels around
        the image; "crop" keeps it and uses the center of the longer side.

    Notes
    -----
    The frame of an image is its size (height, width). A grid (h, w) divides the input into cells,
    one for each patch. Sigmas are in pixels of the input.
    """

    height: int
    width: int
    resize: str = "stretch"

    @classmethod
    def from_size(cls, image_size, resize):
        """Create from an int (square) or a pair (height, width)."""
        height, width = (image_size, image_size) if np.isscalar(image_size) else image_size
        return cls(int(height), int(width), resize)

    def axes(self, frame):
        """(scale, first, last) for rows and for columns.

        Position y of the image is at ``scale * y + first`` in the input, both measured in pixels
        from the upper left corner. ``last`` is the position of the end of the image.
        """
        frame_height, frame_width = frame
        sizes = (self.height, self.width)
        ratios = (self.height / frame_height, self.width / frame_width)
        if self.resize == "stretch":
            return tuple((r, 0.0, float(n)) for r, n in zip(ratios, sizes, strict=True))
        # The image covers `used` pixels, centered in the input: fewer if padded, more if cropped.
        if self.resize == "pad":
            used = [max(1, round(min(ratios) * n)) for n in frame]
            starts = [(n - u) // 2 for n, u in zip(sizes, used, strict=True)]
        else:
            used = [max(ratios) * n for n in frame]
            starts = [(n - u) / 2 for n, u in zip(sizes, used, strict=True)]
        return tuple(
            (u / n, float(s), float(s + u)) for u, n, s in zip(used, frame, starts, strict=True)
        )

    def placement(self, frame):
        """What of an image is used, and where it comes to lie in the input.

        Returns the box (left, top, right, bottom) in the image, and the first and the last row,
        and column, in the input, ends exclusive: ((top, bottom), (left, right)).
        """
        (rows, top, bottom), (columns, left, right) = self.axes(frame)
        # All of the image unless cropped.
        seen = (
            max(0.0, -left / columns),
            max(0.0, -top / rows),
            min(frame[1], (self.width - left) / columns),
            min(frame[0], (self.height - top) / rows),
        )
        inside = (
            (max(0, round(top)), min(self.height, round(bottom))),
            (max(0, round(left)), min(self.width, round(right))),
        )
        return seen, inside

    def apply(self, image):
        """Resize an image (H, W, C) from read_image to (height, width, C) float32 in [0, 1]."""
        seen, ((first_row, end_row), (first_column, end_column)) = self.placement(image.shape[:2])
        resized = _resample(image, (end_column - first_column, end_row - first_row), seen)
        around = (
            (first_row, self.height - end_row),
            (first_column, self.width - end_column),
            (0, 0),
        )
        return np.pad(resized, around, mode="edge") if any(map(any, around)) else resized

    def way_back(self, grid, frame, sigma):
        """Matrices rows (H, h) and columns (W, w): the map is ``rows @ patch_scores @ columns.T``.

        Bilinear upsampling from the grid to the input, a Gaussian filter, and bilinear resizing
        from the input to the frame are linear and separable, so that their composition is one
        matrix per axis. Pixels outside a crop get the value of the nearest pixel inside.
        """
        sizes = (self.height, self.width)
        if tuple(frame) == sizes:  # nothing to resize; the matrices of large images would be large
            return tuple(
                _smoothing(n, size, float(sigma)) for n, size in zip(grid, sizes, strict=True)
            )
        return tuple(
            _smoothed_interpolation(n, size, float(sigma), n_frame, *line)
            for n, size, n_frame, line in zip(grid, sizes, frame, self.axes(frame), strict=True)
        )

    def cell_edges(self, grid, frame):
        """Edges of the cells of a grid (h, w) in rows and columns of the image.

        A pixel belongs to the cell in which its center lies: row i of cells has the rows
        ``edges[i]`` to ``edges[i + 1] - 1`` of the image, and none if it lies in the padding.
        """
        edges = []
        for n_cells, size, n_frame, (scale, first, _) in zip(
            grid, (self.height, self.width), frame, self.axes(frame), strict=True
        ):
            lines = (np.arange(n_cells + 1) * (size / n_cells) - first) / scale
            first_centers = np.ceil(lines - 0.5 - 1e-9)  # ties are not decided by rounding
            edges.append(np.clip(first_centers, 0, n_frame).astype(int))  # (n_cells + 1,)
        return tuple(edges)

    def cell_size(self, grid, frame):
        """Height and width of a cell in pixels of the image, as floats."""
        (rows, *_), (columns, *_) = self.axes(frame)
        return self.height / grid[0] / rows, self.width / grid[1] / columns

    def cell_at(self, grid, frame, pixel):
        """Row and column of the cell of a pixel; of the nearest cell if the pixel is cropped."""
        return tuple(
            int(np.clip(np.searchsorted(edges, place, side="right") - 1, 0, n_cells - 1))
            for edges, place, n_cells in zip(self.cell_edges(grid, frame), pixel, grid, strict=True)
        )

    def cell_box(self, grid, frame, cell):
        """Box (top, left, bottom, right) of a cell in pixels of the image, ends exclusive.

        It has at least one pixel: for a cell in the padding the nearest one of the image.
        """
        starts, ends = [], []
        for edges, place in zip(self.cell_edges(grid, frame), cell, strict=True):
            starts.append(int(min(edges[place], edges[-1] - 1)))
            ends.append(int(max(edges[place + 1], starts[-1] + 1)))
        return *starts, *ends

    def smooth(self, patch_scores, sigma):
        """Patch scores (b, h, w), upsampled to (b, height, width) and smoothed.

        Patches of -inf do not count, and their cells stay -inf.
        """
        rows = _smoothing(patch_scores.shape[1], self.height, float(sigma))
        columns = _smoothing(patch_scores.shape[2], self.width, float(sigma))
        smooth = _product(rows, patch_scores, columns)
        is_left_out = np.isneginf(patch_scores)
        if is_left_out.any():
            cells = [
                np.arange(size) * n // size
                for size, n in zip((self.height, self.width), patch_scores.shape[1:], strict=True)
            ]
            smooth[is_left_out[:, cells[0]][:, :, cells[1]]] = -np.inf
        return smooth

    def to_frame(self, patch_scores, frame, sigma, inside=None, out=None):
        """Score map (H, W) float32 in the frame of the image, from patch scores (h, w).

        Patches of -inf do not count. ``inside``, (H, W) bool: the pixels of a region of interest;
        outside of it the map is 0. ``out``, (H, W) float32: where the map is written, if given.
        """
        rows, columns = self.way_back(patch_scores.shape, tuple(frame), sigma)
        score_map = _product(rows, patch_scores.astype(np.float32, copy=False), columns, out)
        if inside is not None:
            score_map[~inside] = 0
        return score_map


def _product(rows, patch_scores, columns, out=None):
    """``rows @ patch_scores @ columns.T``; means of those that are not -inf, where some are."""
    is_left_out = np.isneginf(patch_scores)
    if not is_left_out.any():
        return np.matmul(rows @ patch_scores, columns.T, out=out)
    total = rows @ np.where(is_left_out, np.float32(0), patch_scores) @ columns.T
    weight = rows @ (~is_left_out).astype(np.float32) @ columns.T
    is_reached = weight > LEAST_WEIGHT
    out = np.empty_like(total) if out is None else out
    out[:] = 0
    return np.divide(total, weight, out=out, where=is_reached)


def _resample(image, size, box):
    """Resize the box (left, top, right, bottom) of an image to (width, height), antialiased."""
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        pixels = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        resized = np.asarray(pixels.resize(size, Image.Resampling.BILINEAR, box=box))
        return resized.reshape(size[1], size[0], -1).astype(np.float32) / np.float32(255)
    # Pillow resizes one channel of other types at a time.
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


def linear_weights(positions: np.ndarray, n: int) -> np.ndarray:
    """Matrix of linear interpolation between the points 0, ..., n - 1.

    Parameters
    ----------
    positions : ndarray of shape (m,)
        Those outside the points get the value of the nearest one.
    n : int

    Returns
    -------
    ndarray of shape (m, n), float32
    """
    # Each row has two weights that sum to 1, of the points below and above its position.
    positions = np.clip(positions, 0, n - 1)
    lower = np.minimum(positions.astype(int), max(n - 2, 0))
    weights = np.zeros((len(positions), n), dtype=np.float32)
    every = np.arange(len(positions))
    np.add.at(weights, (every, lower), 1 - (positions - lower))
    np.add.at(weights, (every, np.minimum(lower + 1, n - 1)), positions - lower)
    return weights


@lru_cache(maxsize=256)
def upsampling(n_from: int, n_to: int) -> np.ndarray:
    """Matrix of linear interpolation along one axis, with the edges of the cells aligned.

    Parameters
    ----------
    n_from, n_to : int
        Number of cells before and after.

    Returns
    -------
    ndarray of shape (n_to, n_from), float32
    """
    centers = (np.arange(n_to) + 0.5) * (n_from / n_to) - 0.5
    return linear_weights(centers, n_from)


@lru_cache(maxsize=256)
def _smoothing(n_grid, n_input, sigma):
    """Matrix (n_input, n_grid): upsampling, then a Gaussian filter."""
    to_input = upsampling(n_grid, n_input)
    return gaussian_filter1d(to_input, sigma, axis=0) if sigma > 0 else to_input


@lru_cache(maxsize=64)
def _smoothed_interpolation(n_grid, n_input, sigma, n_frame, scale, first, last):
    """Matrix (n_frame, n_grid): smoothing and then interpolation."""
    both = _interpolation(n_frame, n_input, scale, first, last) @ _smoothing(n_grid, n_input, sigma)
    both.setflags(write=False)
    return both


@lru_cache(maxsize=256)
def _interpolation(n_frame, n_input, scale, first, last):
    """Matrix (n_frame, n_input): linear interpolation at the pixel centers of the image.

    Positions in the padding or outside the input are moved to the nearest pixel of the image.
    """
    centers = (np.arange(n_frame) + 0.5) * scale + first - 0.5
    inside = np.clip(centers, max(first, 0), min(last, n_input) - 1)
    return linear_weights(inside, n_input)
