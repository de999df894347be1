"""Batches of an epoch: all images in random order, the same whenever the epoch is asked for."""

import numpy as np


def shuffled_batches(n_images: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Numbers of images, shuffled and cut into batches of one size.

    Parameters
    ----------
    n_images, batch_size : int
        An incomplete last batch is left out where there is another: batch norms of a few images
        are far from those of all. The images of it are others in each epoch.
    seed, epoch : int
        What the order is drawn from.

    Returns
    -------
    list of int ndarray of shape (batch_size,), or of one of shape (n_images,)
    """
    size = min(batch_size, n_images)
    order = np.random.default_rng([seed, epoch]).permutation(n_images)
    return [order[first : first + size] for first in range(0, n_images - size + 1, size)]
