"""Which of many images a display draws, with their titles and targets."""

import numpy as np

from skanomaly.images import check_images, titles
from skanomaly.utils.targets import check_length


def select_images(X, names, n_images):
    """Images to draw, their titles, and their places in X."""
    images = check_images(X)
    chosen, names = select_places(n_images, len(images)), titles(images, names)
    return [images[i] for i in chosen], [names[i] for i in chosen], chosen


def select_places(n_images, n_given):
    """Indices of the images to draw: all, or n_images of them, evenly spaced."""
    if n_images is not None and n_images < 1:
        raise ValueError(f"n_images must be at least 1 or None, got {n_images}")
    if n_images is None or n_given <= n_images:
        return np.arange(n_given)
    return np.linspace(0, n_given - 1, n_images).round().astype(int)


def select_targets(y, chosen, n_given):
    """Entries of y for the chosen images; masks in files are read only for these."""
    y = y.tolist() if hasattr(y, "iloc") else y
    check_length(y, n_given)
    return [y[int(i)] for i in chosen]
