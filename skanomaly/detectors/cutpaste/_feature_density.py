"""Gaussians of features: one for each position of a window, or one for all of them.

f            feature of a window, of length 1
log p(f)     -1/2 (f - mu)' Sigma^-1 (f - mu) + const: the paper's equation 2
"""

import numpy as np

from skanomaly.density import PositionwiseGaussian

EPSILON = 0.01  # added to variances, of the mean variance of a number of the features
SMALLEST = 1e-6  # of a length or a deviation, where all features are alike
N_AT_ONCE = 16  # images


def unit(features):
    """Features (..., K) of length 1; those of length 0 stay so."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(length, np.float32(SMALLEST))


def typical_deviation(features):
    """Of a number of features (n, h, w, K) at a position: root of the mean variance."""
    variance = features.var(axis=0, dtype=np.float64).mean()
    return max(float(np.sqrt(variance)), SMALLEST)


def fit_gaussian(features, aligned):
    """A Gaussian at each position of features (n, h, w, K), or at all of them together.

    The covariances are Ledoit and Wolf's: there are fewer images than numbers in a feature.
    """
    gaussian = PositionwiseGaussian(epsilon=EPSILON, shrinkage="ledoit_wolf", updatable=False)
    for first in range(0, len(features), N_AT_ONCE):
        gaussian.partial_fit(_vectors(features[first : first + N_AT_ONCE], aligned))
    return gaussian.finish()


def distances(gaussian, features, aligned):
    """Mahalanobis distances (n, h, w) of features (n, h, w, K)."""
    found = gaussian.mahalanobis(_vectors(features, aligned))
    return found.reshape(features.shape[:3])


def mean_log_density(gaussian, features, aligned):
    """log p(f), a mean over all positions of features (n, h, w, K)."""
    rows, columns, n_features = gaussian.shape_
    places = [(r, c) for r in range(rows) for c in range(columns)]
    volume = np.mean([np.linalg.slogdet(gaussian.covariance(*place))[1] for place in places])
    squared = np.square(distances(gaussian, features, aligned), dtype=np.float64).mean()
    return -(squared + volume + n_features * np.log(2 * np.pi)) / 2


def _vectors(features, aligned):
    """Features (n, h, w, K) as the Gaussian takes them: (n * h * w, 1, 1, K) for one of all."""
    return features if aligned else features.reshape(-1, 1, 1, features.shape[3])


def choose_gaussians(features, held_out, aligned):
    """Gaussians of features of one or more sizes of windows, and how held-out ones lie in them.

    Parameters
    ----------
    features : list of ndarray of shape (n, h, w, K)
        By size.
    held_out : ndarray of shape (n,), bool
        Images from which the choice and the statistics are taken: they are told by Gaussians that
        have not learned from them.
    aligned : {"auto"} or bool

    Returns
    -------
    aligned : bool
        Under which held-out features are likelier, where it is to be chosen.
    gaussians : list of PositionwiseGaussian
        Of all images.
    statistics : ndarray of shape (sizes, 2), float64
        Mean and standard deviation of held-out distances.
    """
    learned = [one[~held_out] for one in features]
    unseen = [one[held_out] for one in features]
    found = {}
    for candidate in (True, False) if aligned == "auto" else (bool(aligned),):
        gaussians = [fit_gaussian(one, candidate) for one in learned]
        pairs = list(zip(gaussians, unseen, strict=True))
        density = 0.0
        if aligned == "auto":
            density = sum(mean_log_density(*pair, candidate) for pair in pairs)
        apart = [distances(*pair, candidate) for pair in pairs]
        found[candidate] = density, [(one.mean(), max(one.std(), SMALLEST)) for one in apart]
    best = max(found, key=lambda candidate: found[candidate][0])
    gaussians = [fit_gaussian(one, best) for one in features]
    return best, gaussians, np.array(found[best][1], dtype=np.float64)
