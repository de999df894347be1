"""Which images displays draw, and what they are called."""

import numpy as np

from skanomaly._images import check_images, titles
from skanomaly._validation import check_length


def chosen_images(X, names, n_images):
    """Images to draw, their titles, and their places in X."""
    images = check_images(X)
    chosen, names = choose(n_images, len(images)), titles(images, names)
    return [images[i] for i in chosen], [names[i] for i in chosen], chosen


def choose(n_images, n_given):
    """Indices of the images to draw: all, or so many evenly spaced ones."""
    if n_images is not None and n_images < 1:
        raise ValueError(f"n_images must be at least 1 or None, got {n_images}")
    if n_images is None or n_given <= n_images:
        return np.arange(n_given)
    return np.linspace(0, n_given - 1, n_images).round().astype(int)


def pick(y, chosen, n_given):
    """Entries of y for the chosen images; masks in files are read for these alone."""
    y = y.tolist() if hasattr(y, "iloc") else y
    check_length(y, n_given)
    return [y[int(i)] for i in chosen]
