"""Slow, obvious nearest-neighbor search."""

import numpy as np


def nearest_rows(rows, queries, n_neighbors):
    """Distances and indices by float64 brute force, one query at a time; lowest index first."""
    rows = np.asarray(rows, dtype=np.float64)
    distances = np.empty((len(queries), n_neighbors))
    indices = np.empty((len(queries), n_neighbors), dtype=np.int64)
    for i, query in enumerate(np.asarray(queries, dtype=np.float64)):
        all_distances = np.sqrt(((rows - query) ** 2).sum(axis=1))
        indices[i] = np.argsort(all_distances, kind="stable")[:n_neighbors]
        distances[i] = all_distances[indices[i]]
    return distances, indices
