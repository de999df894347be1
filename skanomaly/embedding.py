"""From the maps of several layers to one vector per patch."""

from collections.abc import Mapping

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.images import upsampling

__all__ = ["balancing_scales", "embed", "finest_grid", "local_mean"]

_BLOCK_BYTES = 1 << 20  # of the rows that are averaged at a time
Layers = dict[str, np.ndarray]  # maps (b, h, w, C) by layer


def embed(
    layers: Layers,
    *,
    patch_size: int = 1,
    channels: np.ndarray | None = None,
    interpolation: str = "bilinear",
    scales: Mapping[str, float] | None = None,
) -> np.ndarray:
    """One vector per patch: layers averaged locally, brought to the finest grid and joined.

    Parameters
    ----------
    layers : dict of str to ndarray of shape (b, h, w, C), float32
        Maps of b images; the grids (h, w) may differ between layers.
    patch_size : int, default=1
        Side, in cells, of the neighborhood over which each layer is averaged; odd, 1: none.
    channels : ndarray of shape (D,), int, or None, default=None
        Channels to keep, ascending, counted through the layers in their order; None: all.
    interpolation : {"bilinear", "nearest"}, default="bilinear"
        How coarser layers are resized to the finest grid.
    scales : dict of str to float, or None, default=None
        What layers are multiplied by; a layer that is not named stays as it is.

    Returns
    -------
    ndarray of shape (b, H, W, D), float32
        The layers side by side, in their order.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.embedding import embed
    >>> layers = {"fine": np.ones((1, 4, 4, 3)), "coarse": np.zeros((1, 2, 2, 5))}
    >>> embed(layers, patch_size=3, channels=np.array([0, 2, 3])).shape
    (1, 4, 4, 3)
    """
    grid = finest_grid({name: maps.shape[1:] for name, maps in layers.items()})
    resize = _INTERPOLATIONS[interpolation]
    parts, first = [], 0
    for name, maps in layers.items():
        end = first + maps.shape[3]
        if channels is not None:
            start, stop = np.searchsorted(channels, (first, end))
            maps = maps.take(channels[start:stop] - first, axis=3)
        maps = local_mean(maps, patch_size) if patch_size > 1 else maps
        if scales is not None and scales.get(name, 1.0) != 1.0:
            maps = maps * np.float32(scales[name])
        parts.append(maps if maps.shape[1:3] == grid else resize(maps, grid))  # (b, H, W, C)
        first = end
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=3)


def balancing_scales(layers: Layers) -> dict[str, float]:
    """Factors that bring the channels of all layers to one mean variance.

    Parameters
    ----------
    layers : dict of str to ndarray of shape (b, h, w, C) or (n, C)
        Maps of some images, or patches of them.

    Returns
    -------
    dict of str to float
        1 for the first layer that is not constant, and for any other the root of that one's mean
        variance over its own. A constant layer keeps its scale.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.embedding import balancing_scales
    >>> maps = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    >>> scales = balancing_scales({"fine": maps, "coarse": 10 * maps})
    >>> scales["fine"], round(scales["coarse"], 3)
    (1.0, 0.1)
    """
    deviations = {
        name: np.sqrt(np.mean([maps[..., i].var(dtype=np.float64) for i in range(maps.shape[-1])]))
        for name, maps in layers.items()
    }
    first = next((own for own in deviations.values() if own > 0), 1.0)
    return {name: float(first / own) if own > 0 else 1.0 for name, own in deviations.items()}


def finest_grid(layer_shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Rows and columns of the finest grid among layers {layer: (h, w, C)}."""
    return tuple(max(shape[axis] for shape in layer_shapes.values()) for axis in (0, 1))


def check_odd(patch_size: int) -> None:
    """Raise ValueError unless a neighborhood of so many cells a side has a center."""
    if patch_size % 2 == 0:
        raise ValueError(f"patch_size must be odd, to have a center; got {patch_size}")


def local_mean(maps: np.ndarray, size: int) -> np.ndarray:
    """Mean over size x size cells around each, with zeros beyond the border: (b, h, w, C).

    A single cell has no neighborhood and stays as it is.
    """
    if size == 1 or maps.shape[1] == maps.shape[2] == 1:
        return maps
    means = np.empty_like(maps)
    _mean_along(maps, size, 1, means)
    n_rows = max(1, _BLOCK_BYTES // max(means[:1, :1].nbytes, 1))
    for image in means:
        for rows in gen_batches(len(image), n_rows):  # in place, for maps of large images
            _mean_along(image[rows].copy(), size, 1, image[rows])
    return means


def _mean_along(maps, size, axis, out):
    """Mean over size cells along an axis, with zeros beyond the border, into out."""
    before = (slice(None),) * axis
    out[...] = maps
    for shift in range(1, min(size // 2, maps.shape[axis] - 1) + 1):
        ahead = (*before, slice(shift, None))
        behind = (*before, slice(None, -shift))
        out[behind] += maps[ahead]
        out[ahead] += maps[behind]
    out /= np.float32(size)


def resize_bilinear(maps: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """(b, h, w, C) -> (b, H, W, C), bilinear with aligned edges."""
    b, h, w, c = maps.shape
    if (h, w) == tuple(grid):
        return maps
    tall = upsampling(h, grid[0]) @ maps.reshape(b, h, w * c)  # (b, H, w * C)
    return upsampling(w, grid[1]) @ tall.reshape(b, grid[0], w, c)  # (b, H, W, C)


def repeat_cells(maps: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """(b, h, w, C) -> (b, H, W, C), each cell with the value of the one its center lies in."""
    for axis, size in enumerate(grid, start=1):
        if maps.shape[axis] != size:
            centers = 2 * np.arange(size) + 1  # in half cells of the new grid
            maps = maps.take(centers * maps.shape[axis] // (2 * size), axis=axis)
    return maps


_INTERPOLATIONS = {"bilinear": resize_bilinear, "nearest": repeat_cells}
