"""Slow, obvious forms of the feature computations."""

import numpy as np
from scipy.ndimage import correlate, uniform_filter


def average(maps, size):
    """(c, h, w) -> (c, h / size, w / size)."""
    c, h, w = maps.shape
    return maps.reshape(c, h // size, size, w // size, size).mean(axis=(2, 4))


def convolve(maps, filters, stride=1):
    """(c, h, w) and (n, c, k, k) -> (n, h / stride, w / stride), borders reflected."""
    responses = [
        sum(correlate(m, f, mode="mirror") for m, f in zip(maps, one, strict=True))
        for one in filters
    ]
    return np.stack(responses)[:, ::stride, ::stride]


def filter_bank_energies(bank, image):
    """A FilterBank's channels for one image (H, W, C) in [0, 1], before standardizing."""
    image = image.transpose(2, 0, 1).astype(np.float64)
    gray = image.mean(axis=0, keepdims=True)
    maps = []
    for level, filters in enumerate(bank.first_filters_):
        stride = 2 if level == 0 else 1
        response = convolve(average(gray, 2**level), filters, stride)
        contrast = np.sqrt((response**2).mean(axis=0, keepdims=True))
        pooling = 8 // (stride * 2**level)
        maps.append(average(np.sqrt(np.abs(response / (contrast + 0.3))), pooling))
        maps.append(average(np.sqrt(contrast), pooling))
    maps.append(average(image, 8))
    stages = zip(bank.primary_filters_, bank.primary_scale_, bank.secondary_filters_, strict=True)
    for level, (primary, scale, secondary) in enumerate(stages):
        response = convolve(average(gray, 2**level), primary, 2 if level == 0 else 1)
        energies = average(np.sqrt(np.abs(response)), 2) / scale[:, None, None]
        maps.append(average(np.sqrt(np.abs(convolve(energies, secondary))), 2))
    return np.concatenate(maps).transpose(1, 2, 0)


def locally_aware_patches(layers, size):
    """{layer: (h, w, C)} of one image -> (H, W, D): local means, then linear interpolation."""
    finest = max(maps.shape[:2] for maps in layers.values())
    joined = []
    for maps in layers.values():
        mean = np.stack([uniform_filter(c, size, mode="constant") for c in maps.transpose(2, 0, 1)])
        joined += list(stretch(stretch(mean, finest[0], axis=1), finest[1], axis=2))
    return np.stack(joined, axis=-1)


def stretch(maps, n, axis):
    """Linear interpolation along an axis to n cells, edges aligned."""
    n_before = maps.shape[axis]
    places = (np.arange(n) + 0.5) * n_before / n - 0.5
    return np.apply_along_axis(lambda v: np.interp(places, np.arange(n_before), v), axis, maps)


def patchcore_scores(patches, bank, n_neighbors, n_reweight):
    """One image's patches (p, D) -> patch scores (p,) and the paper's image score (eq. 6, 7)."""
    distances = np.array([[np.linalg.norm(p - m) for m in bank] for p in patches])
    scores = np.sort(distances, axis=1)[:, :n_neighbors].mean(axis=1)
    worst = scores.argmax()
    if n_reweight == 0:
        return scores, scores[worst]
    nearest = distances[worst].argmin()
    around = np.argsort([np.linalg.norm(bank[nearest] - m) for m in bank])[:n_reweight]
    weight = 1 - np.exp(distances[worst, nearest]) / np.exp(distances[worst, around]).sum()
    return scores, weight * scores[worst]
