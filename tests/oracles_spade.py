"""Slow, obvious SPADE: one image, one layer, one position at a time, in double precision."""

import numpy as np


def nearest_images(pooled, good_pooled, n_neighbors):
    """Distances (K,) and numbers (K,) of the good images nearest to one pooled vector."""
    distances = [np.sqrt(np.sum((pooled - other) ** 2)) for other in good_pooled]
    nearest = np.argsort(distances, kind="stable")[:n_neighbors]
    return np.array(distances)[nearest], nearest


def layer_scores(maps, gallery_maps, n_gallery_neighbors):
    """Scores (h, w) of one image's maps (h, w, C) against those of its gallery (K, h, w, C)."""
    h, w, c = maps.shape
    gallery = gallery_maps.reshape(-1, c)
    scores = np.empty((h, w))
    for row in range(h):
        for column in range(w):
            distances = np.sqrt(((gallery - maps[row, column]) ** 2).sum(axis=1))
            scores[row, column] = np.sort(distances)[:n_gallery_neighbors].mean()
    return scores
