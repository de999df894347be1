"""Filters that are principal components of patches, and what is done with them."""

import numpy as np
import torch
import torch.nn.functional as F

N_PATCHES = 20_000


def learn_filters(maps, size, n_filters, rng, inside=None):
    """Whitened principal components of random patches, as zero-mean convolution filters.

    Parameters
    ----------
    maps : tensor of shape (n, c, h, w)
    size : int
        Side of the filters in pixels.
    n_filters : int
        At most ``c * size**2 - c``.
    rng : RandomState
    inside : ndarray of shape (n, h', w'), bool, or None
        Cells of the maps that patches may come from; None: all.

    Returns
    -------
    ndarray of shape (n_filters, c, size, size), float32
    """
    n, c = maps.shape[:2]
    windows = maps.unfold(2, size, 1).unfold(3, size, 1)  # (n, c, h', w', size, size)
    h, w = windows.shape[2:4]
    per_image = min(N_PATCHES // n, h * w)
    if inside is None:
        places = np.stack([rng.choice(h * w, per_image, replace=False) for _ in range(n)])
    else:
        places = np.stack([_places(one, (h, w), size, per_image, rng) for one in inside])
    every = np.arange(n)[:, None]
    patches = windows.permute(0, 2, 3, 1, 4, 5)[every, places // w, places % w]
    patches = patches.reshape(n * per_image, c, size * size)
    # In double precision, so that the number of threads leaves no trace in float32.
    patches = (patches - patches.mean(2, keepdim=True)).flatten(1).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    values, vectors = values[-n_filters:], vectors[:, -n_filters:]
    whitened = vectors / (values.clamp_min(1e-8).sqrt() + 1e-3)
    filters = whitened.T.reshape(-1, c, size * size)
    filters = (filters - filters.mean(2, keepdim=True)).float()
    return filters.reshape(-1, c, size, size).contiguous().numpy()


def _places(inside, n_windows, size, n_places, rng):
    """Numbers of random windows, of a grid of them, whose centers lie in cells that are inside."""
    rows, columns = (
        (np.arange(n) + size // 2) * n_cells // (n + size - 1)
        for n, n_cells in zip(n_windows, inside.shape, strict=True)
    )
    allowed = np.flatnonzero(inside[rows][:, columns])
    if len(allowed) == 0:  # all lie at the border, where no window has its center
        allowed = np.arange(n_windows[0] * n_windows[1])
    return rng.choice(allowed, n_places, replace=len(allowed) < n_places)


def convolve(maps, filters, stride=1):
    """Convolution with reflected borders."""
    border = filters.shape[-1] // 2
    return F.conv2d(F.pad(maps, (border,) * 4, mode="reflect"), filters, stride=stride)


def average(maps, size):
    """Mean of size x size cells."""
    return F.avg_pool2d(maps, size) if size > 1 else maps
