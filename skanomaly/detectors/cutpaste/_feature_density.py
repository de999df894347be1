"""Gaussians of features: one for each position of a window, or one for all of them.

f            feature of a window, of length 1
log p(f)     -1/2 (f - mu)' Sigma^-1 (f - mu) + const: the paper's equation 2
"""

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.density import PositionwiseGaussian

EPSILON = 0.01  # added to variances, of the mean variance of a number of the features
SMALLEST = 1e-6  # of a length or a deviation, where all features are alike
N_AT_ONCE = 16  # images


def unit(features):
    """Features (..., K) of length 1; those of length 0 stay so."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(length, np.float32(SMALLEST))


def typical_deviation(features, inside=None):
    """Of a number of features (n, h, w, K) at a position: root of the mean variance.

    ``inside``, (n, h, w) bool, tells the positions that count in any image.
    """
    variance = features.var(axis=0, dtype=np.float64)  # (h, w, K)
    if inside is not None:
        variance = variance[inside.any(axis=0)]
    return max(float(np.sqrt(variance.mean())), SMALLEST)


def fit_gaussian(features, aligned, inside=None):
    """A Gaussian at each position of features (n, h, w, K), or at all of them together.

    The covariances are Ledoit and Wolf's: there are fewer images than numbers in a feature. That of
    all positions learns from those ``inside``, (n, h, w) bool.
    """
    gaussian = PositionwiseGaussian(epsilon=EPSILON, shrinkage="ledoit_wolf", updatable=False)
    for part in gen_batches(len(features), N_AT_ONCE):
        some = features[part]
        if inside is not None and not aligned:
            some = some[inside[part]][:, None, None]  # (windows, 1, 1, K)
        gaussian.partial_fit(_vectors(some, aligned))
    return gaussian.finish()


def distances(gaussian, features, aligned):
    """Mahalanobis distances (n, h, w) of features (n, h, w, K)."""
    found = gaussian.mahalanobis(_vectors(features, aligned))
    return found.reshape(features.shape[:3])


def mean_log_density(gaussian, features, aligned, inside=None):
    """log p(f), a mean over all positions of features (n, h, w, K), or those ``inside``."""
    rows, columns, n_features = gaussian.shape_
    volumes = np.array(
        [
            [np.linalg.slogdet(gaussian.covariance(r, c))[1] for c in range(columns)]
            for r in range(rows)
        ]
    )
    squared = np.square(distances(gaussian, features, aligned), dtype=np.float64)  # (n, h, w)
    found = _counted(squared + volumes, inside).mean()
    return -(found + n_features * np.log(2 * np.pi)) / 2


def _counted(values, inside):
    return values if inside is None else values[inside]


def _vectors(features, aligned):
    """Features (n, h, w, K) as the Gaussian takes them: (n * h * w, 1, 1, K) for one of all."""
    return features if aligned else features.reshape(-1, 1, 1, features.shape[3])


def choose_gaussians(features, held_out, aligned, inside=None):
    """Gaussians of features of one or more sizes of windows, and how held-out ones lie in them.

    Parameters
    ----------
    features : list of ndarray of shape (n, h, w, K)
        By size.
    held_out : ndarray of shape (n,), bool
        Images from which the choice and the statistics are taken: they are told by Gaussians that
        have not learned from them.
    aligned : {"auto"} or bool
    inside : list of ndarray of shape (n, h, w), bool, or of None; or None
        By size: the windows that count.

    Returns
    -------
    aligned : bool
        Under which held-out features are likelier, where it is to be chosen.
    gaussians : list of PositionwiseGaussian
        Of all images.
    statistics : ndarray of shape (sizes, 2), float64
        Mean and standard deviation of held-out distances.
    """
    inside = [None] * len(features) if inside is None else inside
    every = list(zip(features, inside, strict=True))
    learned, unseen = (
        [(one[rows], None if some is None else some[rows]) for one, some in every]
        for rows in (~held_out, held_out)
    )
    found = {}
    for candidate in (True, False) if aligned == "auto" else (bool(aligned),):
        gaussians = [fit_gaussian(one, candidate, some) for one, some in learned]
        judged = [
            (g, one, candidate, some) for g, (one, some) in zip(gaussians, unseen, strict=True)
        ]
        density = sum(mean_log_density(*one) for one in judged) if aligned == "auto" else 0.0
        apart = [_counted(distances(*one), some) for *one, some in judged]
        found[candidate] = density, [(one.mean(), max(one.std(), SMALLEST)) for one in apart]
    best = max(found, key=lambda candidate: found[candidate][0])
    gaussians = [fit_gaussian(one, best, some) for one, some in every]
    return best, gaussians, np.array(found[best][1], dtype=np.float64)
