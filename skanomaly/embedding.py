"""From the maps of several layers to one vector per patch."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from skanomaly.images import upsampling
from skanomaly.utils.compiling import compiled
from skanomaly.utils.threads import count_processors, single_threaded_pool

__all__ = ["balancing_scales", "embed", "finest_grid", "local_mean"]

_MANY_NUMBERS = 200_000  # that several threads join faster than one
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

    Raises
    ------
    ValueError
        If ``interpolation`` is neither of the two.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.embedding import embed
    >>> layers = {"fine": np.ones((1, 4, 4, 3)), "coarse": np.zeros((1, 2, 2, 5))}
    >>> embed(layers, patch_size=3, channels=np.array([0, 2, 3])).shape
    (1, 4, 4, 3)
    """
    if interpolation not in ("bilinear", "nearest"):
        raise ValueError(f'interpolation must be "bilinear" or "nearest", got {interpolation!r}')
    grid = finest_grid({name: maps.shape[1:] for name, maps in layers.items()})
    scales = {} if scales is None else scales
    parts, first = [], 0
    for maps in layers.values():
        end = first + maps.shape[3]
        if channels is not None:
            start, stop = np.searchsorted(channels, (first, end))
            maps = maps.take(channels[start:stop] - first, axis=3)
        parts.append(np.ascontiguousarray(maps))
        first = end
    factors = [float(scales.get(name, 1.0)) for name in layers]
    if len(parts) == 1 and patch_size == 1 and factors == [1.0]:
        return parts[0]
    starts = np.cumsum([0] + [maps.shape[3] for maps in parts])
    joined = np.empty((len(parts[0]), *grid, starts[-1]), dtype=np.result_type(*parts))

    def fill(task):
        image, layer = task
        own, start = parts[layer][image], starts[layer]
        _fill(own, patch_size, factors[layer], interpolation, start, joined[image])

    tasks = [(image, layer) for image in range(len(joined)) for layer in range(len(parts))]
    n_threads = count_processors() if joined.size > _MANY_NUMBERS else 1
    with single_threaded_pool(n_threads) as pool:
        list(pool.map(fill, tasks))  # list: raises what a thread has raised
    return joined


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
    maps = np.ascontiguousarray(maps)
    means = np.empty_like(maps)
    for image, out in zip(maps, means, strict=True):
        _average_into(image, size, 1.0, 0, out)
    return means


def _fill(maps, patch_size, factor, interpolation, start, out):
    """A layer of one image (h, w, C), into the columns of `out` (H, W, D) from `start` on."""
    size = 1 if maps.shape[:2] == (1, 1) else patch_size
    if maps.shape[:2] == out.shape[:2]:
        _average_into(maps, size, factor, start, out)
        return
    if size > 1 or factor != 1:
        means = np.empty_like(maps)
        _average_into(maps, size, factor, 0, means)
        maps = means
    if interpolation == "bilinear":
        (height, width), (H, W) = maps.shape[:2], out.shape[:2]
        _interpolate_into(maps, *_two_cells(height, H), *_two_cells(width, W), start, out)
    else:
        out[:, :, start : start + maps.shape[2]] = repeat_cells(maps[None], out.shape[:2])[0]


@compiled(nogil=True)
def _average_into(maps, size, factor, start, out):
    """Local means of maps (h, w, C), times a factor, into the columns of `out` from `start` on."""
    height, width, n_channels = maps.shape
    factor, n_cells = maps.dtype.type(factor), maps.dtype.type(size)
    tall = np.empty((width, n_channels), dtype=maps.dtype)  # means over the rows
    for i in range(height):
        tall[:] = maps[i]
        for shift in range(1, size // 2 + 1):
            if i + shift < height:
                tall += maps[i + shift]
            if i - shift >= 0:
                tall += maps[i - shift]
        tall /= n_cells
        for j in range(width):
            cell = out[i, j, start : start + n_channels]
            cell[:] = tall[j]
            for shift in range(1, size // 2 + 1):
                if j + shift < width:
                    cell += tall[j + shift]
                if j - shift >= 0:
                    cell += tall[j - shift]
            for k in range(n_channels):
                cell[k] = cell[k] / n_cells * factor


@compiled(nogil=True)
def _interpolate_into(maps, rows, row_weights, columns, column_weights, start, out):
    """Maps (h, w, C), interpolated, into the columns of `out` (H, W, D) from `start` on.

    Row i lies between the rows ``rows[i]`` of the maps, two, and is their mean of the weights
    ``row_weights[i]``; columns likewise.
    """
    n_channels = maps.shape[2]
    tall = np.empty(maps.shape[1:], dtype=maps.dtype)
    for i in range(out.shape[0]):
        above, below = maps[rows[i, 0]], maps[rows[i, 1]]
        for j in range(tall.shape[0]):
            for k in range(n_channels):
                tall[j, k] = row_weights[i, 0] * above[j, k] + row_weights[i, 1] * below[j, k]
        for j in range(out.shape[1]):
            left, right = tall[columns[j, 0]], tall[columns[j, 1]]
            cell = out[i, j, start : start + n_channels]
            for k in range(n_channels):
                cell[k] = column_weights[j, 0] * left[k] + column_weights[j, 1] * right[k]


@lru_cache(maxsize=256)
def _two_cells(n_from, n_to):
    """The two cells (n_to, 2) that each new one lies between, and their weights, float32."""
    weights = upsampling(n_from, n_to)
    first = np.minimum((weights != 0).argmax(axis=1), max(n_from - 2, 0))
    cells = np.column_stack([first, np.minimum(first + 1, n_from - 1)])
    both = np.take_along_axis(weights, cells, axis=1)
    both[cells[:, 0] == cells[:, 1], 1] = 0  # of a single cell
    return cells, both


def repeat_cells(maps: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """(b, h, w, C) -> (b, H, W, C), each cell with the value of the one its center lies in."""
    for axis, size in enumerate(grid, start=1):
        if maps.shape[axis] != size:
            centers = 2 * np.arange(size) + 1  # in half cells of the new grid
            maps = maps.take(centers * maps.shape[axis] // (2 * size), axis=axis)
    return maps
