"""What the flows get: channels of each layer, each place in units of its own spread.

m, v    mean and variance over the good images of a channel at a place, (h, w, C)
t       variance of a channel over all images and places, (C,)
x       <- (x - m) / sqrt(v + 0.1 t)
"""

import numpy as np

from skanomaly.detectors._flows import LARGEST
from skanomaly.embedding import embed

SHARE_OF_ALL = 0.1  # of the variance over all places, added to that of each
CONSTANT = 1e-12  # variance in units of the mean square below which a channel is constant


def choose_channels(layer_shapes, n_components, seed):
    """Channels of each layer, drawn at random.

    Parameters
    ----------
    layer_shapes : dict of str to tuple (h, w, C)
    n_components : int or None
        Of each layer; None, or more than there are: all.
    seed : int

    Returns
    -------
    dict of str to ndarray of shape (d,), int
        Ascending.
    """
    rng, chosen = np.random.default_rng(seed), {}
    for name, (_, _, n_channels) in layer_shapes.items():
        chosen[name] = np.arange(n_channels)
        if n_components is not None and n_components < n_channels:
            chosen[name] = np.sort(rng.permutation(n_channels)[:n_components])
    return chosen


def chosen_maps(X, channels, patch_size):
    """Maps of some channels, averaged locally.

    Parameters
    ----------
    X : FeatureMaps of b images, stored
    channels : dict of str to ndarray of shape (d,), int
    patch_size : int

    Returns
    -------
    dict of str to ndarray of shape (b, h, w, d), float32
    """
    chosen = {}
    for name, maps in X.arrays().items():
        some = channels[name] if len(channels[name]) < maps.shape[3] else None  # all: no copy
        chosen[name] = embed({name: maps}, patch_size=patch_size, channels=some)
    return chosen


def places_inside(X, grids):
    """Which places lie in the regions of interest.

    Parameters
    ----------
    X : FeatureMaps of n images, stored
    grids : list of tuple (h, w)
        Of the layers.

    Returns
    -------
    list of ndarray of shape (n, h, w), bool, or None
        Of each layer; None: all. Of an image without a place inside all are True.
    """
    found = [X.inside(grid) for grid in grids]
    for inside in found:
        if inside is not None:
            inside[~inside.any(axis=(1, 2))] = True
    return found


def place_statistics(batches):
    """What each place looks like on average, and how far it is from that.

    Parameters
    ----------
    batches : iterable of (maps, inside)
        By layer: dict of str to ndarray of shape (b, h, w, d); and list of ndarray of shape
        (b, h, w), bool, or None: where a place counts. One that never does gets what all have.

    Returns
    -------
    means, scales : dict of str to ndarray of shape (h, w, d), float32
        Scales are positive; that of a channel that never changes is 1.
    """
    counts, origin, sums, squares = {}, {}, {}, {}
    for batch, inside in batches:
        for (name, maps), counted in zip(batch.items(), inside, strict=True):
            if name not in origin:
                # Sums relative to the first image lose no digits.
                origin[name] = maps[0].astype(np.float64)
                sums[name], squares[name] = (np.zeros(maps.shape[1:]) for _ in range(2))
                counts[name] = np.zeros(maps.shape[1:3])
            offsets = maps - origin[name]  # (b, h, w, d) float64
            if counted is not None:
                offsets *= counted[..., None]
            sums[name] += offsets.sum(axis=0)
            squares[name] += np.square(offsets).sum(axis=0)
            counts[name] += len(maps) if counted is None else counted.sum(axis=0)
    means, scales = {}, {}
    for name in sums:
        n, seen = np.maximum(counts[name], 1)[..., None], counts[name] > 0
        mean = origin[name] + sums[name] / n
        variance = np.maximum(squares[name] / n - np.square(sums[name] / n), 0)
        of_all = variance[seen].mean(axis=0) + mean[seen].var(axis=0)  # (d,)
        of_all[of_all <= CONSTANT * np.square(mean[seen]).mean(axis=0)] = 0
        mean[~seen], variance[~seen] = mean[seen].mean(axis=0), of_all
        scale = np.sqrt(variance + SHARE_OF_ALL * of_all)
        means[name] = mean.astype(np.float32)
        scales[name] = np.where(of_all > 0, scale, 1).astype(np.float32)
    return means, scales


def standardized(maps, mean, scale):
    """Maps (b, h, w, d) in units of each place's spread; mean None: as they are, if not huge."""
    if mean is not None:
        maps = maps - mean
        maps /= scale
    # Nothing becomes infinite in a flow, however far from the good images.
    return np.clip(maps, -LARGEST, LARGEST, out=maps if mean is not None else None)
