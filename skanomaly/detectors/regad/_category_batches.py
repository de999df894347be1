"""Images of several categories: which image is of which, and batches of one category each."""

import numpy as np
import torch

from skanomaly.images import load_batches

READ_SIZE = 16  # images read at a time


def check_groups(groups, n_images):
    """Categories (n_images,) as an array; ValueError where they are missing, too few, or labels."""
    if groups is None:
        raise ValueError(
            "expected groups, the category of each image, as fit(images, groups=categories), got "
            "None; in a Pipeline use a network that was fitted before, as FrozenEstimator(network)"
        )
    if len(groups) != n_images:
        raise ValueError(f"expected groups for {n_images} images, got {len(groups)}")
    groups = np.asarray(groups)
    if set(np.unique(groups).tolist()) <= {1, -1}:
        raise ValueError(
            "expected groups, the category of each image, got the labels +1 and -1; give names of "
            "categories, and the labels as y"
        )
    return groups


def members_of(groups, left_out=None):
    """The images of each category.

    Parameters
    ----------
    groups : ndarray of shape (n,)
        The category of each image.
    left_out : str, int or None, default=None
        A category that is not trained on.

    Returns
    -------
    dict of str or int to ndarray of shape (n_members,), int
        Places in `groups` by category, the one left out included.

    Raises
    ------
    ValueError
        A category has a single image, the one left out is not there, or fewer than two are left.
    """
    names, which = np.unique(groups, return_inverse=True)
    members = {name: np.flatnonzero(which == i) for i, name in enumerate(names.tolist())}
    single = [name for name, indices in members.items() if len(indices) < 2]
    if single:
        raise ValueError(
            f"expected at least 2 good images of each category, got 1 of {single[0]!r}; leave it "
            "out or add images"
        )
    if left_out is not None and left_out not in members:
        raise ValueError(f"validation_group={left_out!r} is none of the groups {list(members)}")
    if len(members) - (left_out is not None) < 2:
        raise ValueError(
            f"expected images of at least 2 categories to train on, got {list(members)}; "
            "what is learned from one does not carry over to others"
        )
    return members


def draw_batches(members, batch_size, n_support, rng):
    """Batches of one category each in random order, every image once.

    Parameters
    ----------
    members : list of ndarray of shape (n_members,), int
        The images of each category.
    batch_size : int
        Number of images in each batch, about: batches of a category are of equal size, and no
        image is alone in one.
    n_support : int
        Other images of the batch that go with each image, or as many as there are.
    rng : numpy Generator

    Returns
    -------
    list of tuple (images, support)
        Images (b,) int, and for each of them its support as places in the batch, (b, k) int.
    """
    batches = []
    for indices in members:
        shuffled = rng.permutation(indices)
        n_parts = max(1, min(round(len(indices) / batch_size), len(indices) // 2))
        for part in np.array_split(shuffled, n_parts):
            places = np.arange(len(part))
            others = [rng.permutation(np.delete(places, i))[:n_support] for i in places]
            batches.append((part, np.stack(others)))  # (b,), (b, k)
    return [batches[i] for i in rng.permutation(len(batches))]


def support_weights(support):
    """Matrix (b, b) float32 whose product with a batch is the mean over each image's support.

    The gradient of a product adds up in one order, run after run; that of an index does not.
    """
    weights = np.zeros((len(support), len(support)), dtype=np.float32)
    np.put_along_axis(weights, support, 1 / support.shape[1], axis=1)  # support is (b, k)
    return torch.from_numpy(weights)


def load_pixels(images, image_fit, n_threads):
    """All images at the input's size, each read once: a tensor (n, 3, H, W) of uint8.

    A training looks at each image once an epoch; as bytes many of them fit into memory.
    """
    pixels = torch.empty(len(images), 3, image_fit.height, image_fit.width, dtype=torch.uint8)
    done = 0
    for batch, _ in load_batches(images, image_fit, 3, READ_SIZE, n_threads=n_threads):
        batch = torch.from_numpy(np.rint(batch * 255).astype(np.uint8))  # (b, H, W, 3)
        pixels[done : done + len(batch)] = batch.permute(0, 3, 1, 2)
        done += len(batch)
    return pixels
