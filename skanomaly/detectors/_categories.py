"""Pictures of several categories: who belongs to whom, and batches of one category each."""

import numpy as np
import torch

from skanomaly._images import load_batches


def members_of(groups, n_images, left_out=None):
    """{category: indices of its pictures}.

    Raises ValueError unless there are two categories beside the one left out, of two pictures each.
    """
    if groups is None:
        raise ValueError(
            "expected groups, the category of each picture, got None; in a Pipeline use a network "
            "that was fitted before, as FrozenEstimator(network)"
        )
    if len(groups) != n_images:
        raise ValueError(f"expected groups for {n_images} pictures, got {len(groups)}")
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    if set(names.tolist()) <= {1, -1}:
        raise ValueError(
            "expected groups, the category of each picture, got the labels +1 and -1; give names, "
            "and good pictures alone"
        )
    members = {name: np.flatnonzero(which == i) for i, name in enumerate(names.tolist())}
    single = [name for name, indices in members.items() if len(indices) < 2]
    if single:
        raise ValueError(
            f"expected at least 2 pictures of each category, got 1 of {single[0]!r}; leave it "
            "out or add pictures"
        )
    if left_out is not None and left_out not in members:
        raise ValueError(f"validation_group={left_out!r} is none of the groups {list(members)}")
    if len(members) - (left_out is not None) < 2:
        raise ValueError(
            f"expected pictures of at least 2 categories to train on, got {list(members)}; "
            "what is learned from one does not carry over to others"
        )
    return members


def draw_batches(members, batch_size, n_support, rng):
    """Batches of one category each in random order, every picture once.

    Parameters
    ----------
    members : list of int arrays
        The pictures of each category.
    batch_size : int
        About so many pictures in each.
    n_support : int
        Other pictures of the batch that go with each picture, or as many as there are.
    rng : numpy Generator

    Returns
    -------
    list of pairs
        Pictures (b,), and for each of them its support as places in the batch, (b, n_support).
    """
    batches = []
    for indices in members:
        shuffled = rng.permutation(indices)
        n_parts = max(1, min(round(len(indices) / batch_size), len(indices) // 2))
        for part in np.array_split(shuffled, n_parts):
            places = np.arange(len(part))
            others = [rng.permutation(np.delete(places, i))[:n_support] for i in places]
            batches.append((part, np.stack(others)))
    return [batches[i] for i in rng.permutation(len(batches))]


def support_shares(support):
    """Matrix (b, b) whose product with a batch is the mean over each picture's support (b, k).

    The gradient of a product adds up in one order, run after run; that of an index does not.
    """
    shares = np.zeros((len(support), len(support)), dtype=np.float32)
    np.put_along_axis(shares, support, 1 / support.shape[1], axis=1)
    return torch.from_numpy(shares)


def load_pictures(images, image_fit):
    """All pictures at the input's size, (n, 3, H, W) uint8."""
    pictures = torch.empty(len(images), 3, image_fit.height, image_fit.width, dtype=torch.uint8)
    done = 0
    for batch, _ in load_batches(images, image_fit, 3, 16):
        batch = torch.from_numpy(np.rint(batch * 255).astype(np.uint8))  # (b, H, W, 3)
        pictures[done : done + len(batch)] = batch.permute(0, 3, 1, 2)
        done += len(batch)
    return pictures
