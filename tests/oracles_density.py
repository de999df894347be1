"""Slow, obvious densities: loops over positions, by the definitions, in double precision."""

import numpy as np
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf


def gaussians(maps, epsilon, shrinkage=None):
    """Mean (h, w, d) and covariance (h, w, d, d) of maps (n, h, w, d)."""
    _, h, w, d = maps.shape
    means, covariances = np.empty((h, w, d)), np.empty((h, w, d, d))
    for row in range(h):
        for column in range(w):
            vectors = maps[:, row, column].astype(np.float64)
            means[row, column] = vectors.mean(axis=0)
            if shrinkage == "ledoit_wolf":
                covariance = ledoit_wolf(vectors)[0]
            else:
                covariance = np.cov(vectors, rowvar=False).reshape(d, d)
            covariances[row, column] = covariance + epsilon * np.eye(d)
    return means, covariances


def distances(maps, means, covariances):
    """Mahalanobis distance (b, h, w) of each vector of maps (b, h, w, d)."""
    b, h, w, _ = maps.shape
    result = np.empty((b, h, w))
    for row in range(h):
        for column in range(w):
            inverse = np.linalg.inv(covariances[row, column])
            for i in range(b):
                vector = maps[i, row, column].astype(np.float64)
                result[i, row, column] = mahalanobis(vector, means[row, column], inverse)
    return result


def replicated(maps, grid):
    """Maps (b, h, w, C) on a finer grid (H, W): each cell takes the value of the one it lies in."""
    b, h, w, c = maps.shape
    result = np.empty((b, *grid, c), maps.dtype)
    for row in range(grid[0]):
        for column in range(grid[1]):
            # the middle of the fine cell, in coarse cells
            result[:, row, column] = maps[
                :, int((row + 0.5) * h / grid[0]), int((column + 0.5) * w / grid[1])
            ]
    return result
