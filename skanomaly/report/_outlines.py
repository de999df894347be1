"""Outlines of masks as paths of SVG: small, sharp at any size, and shown or hidden by the page."""

from typing import Any

import numpy as np

from skanomaly.images import check_map

_SIDE = 320  # cells along the longer side, at most: a mask of more pixels is reduced
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # right, down, left, up: clockwise
_STARTS = ((0, 0), (0, 1), (1, 1), (1, 0))  # corner of a cell where its edge of that step begins


def outline_of(mask: Any, rgb: np.ndarray, name: str) -> str:
    """Path around the regions of a mask, in pixels of its image.

    Parameters
    ----------
    mask : array of shape (H, W) or None
        Nonzero inside.
    rgb : ndarray of shape (H, W, 3)
        The image.
    name : str
        What the mask is called in messages.

    Returns
    -------
    str
        Attribute ``d`` of an SVG path; empty where the mask is None or nothing or all lies inside.

    Raises
    ------
    ValueError
        The mask has another shape than its image.
    """
    if mask is None:
        return ""
    mask = np.asarray(mask).astype(bool)
    check_map(rgb, mask, name)
    if not mask.any() or mask.all():
        return ""
    step = -(-max(mask.shape) // _SIDE)
    rows, columns = (-n % step for n in mask.shape)
    padded = np.pad(mask, ((0, rows), (0, columns)))
    blocks = padded.reshape(len(padded) // step, step, -1, step)
    # A cell is inside where any of its pixels is, so that a scratch one pixel wide does not vanish.
    cells = np.any(blocks, axis=(1, 3))
    return "".join(_path(loop, step, mask.shape) for loop in _loops(cells))


def _path(loop, step, shape):
    """A closed path through the corners of a loop."""
    corners = np.minimum(np.multiply(loop, step), shape).tolist()
    (row, column), *others = corners
    words = [f"M{column} {row}"]
    for next_row, next_column in others:
        words.append(f"H{next_column}" if next_row == row else f"V{next_row}")
        row = next_row
    return "".join([*words, "Z"])


def _loops(cells):
    """Yield the corners (row, column) of each closed border, with the inside on its right."""
    edges = _edges(cells)
    while edges:
        place = next(iter(edges))
        loop, before = [], 0
        while place in edges:
            left = edges[place]
            # At a corner that two cells share a border stays with its own cell: it turns right.
            step = min(left, key=[(before + turn) % 4 for turn in (1, 0, 3, 2)].index)
            left.remove(step)
            if not left:
                del edges[place]
            if not loop or step != before:
                loop.append(place)
            place, before = (place[0] + _STEPS[step][0], place[1] + _STEPS[step][1]), step
        yield loop


def _edges(cells):
    """{corner: steps of the borders that begin there}, the uppermost corners first."""
    padded = np.pad(cells, 1)
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    edges: dict[tuple, list] = {}
    for step, (neighbor, (down, across)) in enumerate(
        zip((above, right, below, left), _STARTS, strict=True)
    ):
        for row, column in np.argwhere(cells & ~neighbor).tolist():
            edges.setdefault((row + down, column + across), []).append(step)
    return edges
