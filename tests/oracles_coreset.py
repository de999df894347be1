"""Slow, obvious greedy k-center selection."""

import numpy as np

from skanomaly.utils.distances import squared_distance


def sequential_greedy(rows, n_samples, start, radius=None):
    """Select the row farthest from all rows selected so far; the lowest index wins a tie."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    nearest = np.full(len(rows), np.inf)
    picks = [start]
    while True:
        for p in range(len(rows)):
            nearest[p] = min(nearest[p], squared_distance(rows[p], rows[picks[-1]]))
        nearest[picks] = -1
        if len(picks) == n_samples or (radius is not None and nearest.max() <= radius**2):
            return np.array(picks)
        picks.append(int(np.argmax(nearest)))


def sequential_greedy_float64(rows, n_samples, start):
    """The plain loop in float64, for data without ties."""
    rows = rows.astype(np.float64)
    nearest = np.full(len(rows), np.inf)
    picks = [start]
    while len(picks) < n_samples:
        nearest = np.minimum(nearest, ((rows - rows[picks[-1]]) ** 2).sum(axis=1))
        picks.append(int(np.argmax(nearest)))
    return picks


def covering_radius(rows, picks):
    """Largest distance of a row to its nearest pick, in float64."""
    rows = np.asarray(rows, dtype=np.float64)
    nearest = np.full(len(rows), np.inf)
    for pick in picks:
        nearest = np.minimum(nearest, ((rows - rows[pick]) ** 2).sum(axis=1))
    return np.sqrt(nearest.max())
