"""Trained networks of one or more patch sizes, and what they say of images."""

import numpy as np
import torch

from skanomaly._images import load_batches
from skanomaly.detectors._glance import Glance, ready
from skanomaly.detectors._glance_training import PHASES, train_glance
from skanomaly.detectors._networks import TrainingError
from skanomaly.detectors._teachers import moments, taught_vectors
from skanomaly.feature_extraction import _backbones as backbones
from skanomaly.feature_maps import FeatureMaps

PIXELS = "pixels"  # the layer that images are
SMALLEST_DEVIATION = 1e-3  # of a score's logarithm: a classifier may be sure of itself
SMALLEST_SCALE = 1e-3  # of brightness, where a channel is the same everywhere


class Glances:
    """Networks by patch size.

    Parameters
    ----------
    grids : list of PatchGrid
        The patches that are judged, of each size.
    shape : tuple
        What each Glance is made of beside its patch's side: n_channels, mode, dtype.
    mean, scale : ndarray of shape (C,)
        Of the images' channels.
    """

    def __init__(self, grids, shape, mean, scale):
        self.grids, self.shape = grids, shape
        self.mean, self.scale = mean, scale
        self.networks = []

    def train(self, pixels, teacher, training):
        """Train the networks of each size; answers their losses by name.

        Parameters
        ----------
        pixels : ndarray of shape (n, H, W, C), float32 in [0, 1]
        teacher : FeatureExtractor or FilterBank
        training : Training

        Raises
        ------
        TrainingError
            With the losses so far.
        """
        # One by one, so that only their halves are held.
        pictures = torch.stack([self.standardised(one[None])[0].half() for one in pixels])
        standard, history = (self.mean, self.scale), {}
        for grid in self.grids:
            taught = taught_vectors(teacher, pixels, grid.side)
            network = Glance(grid.side, *self.shape, seed=training.seed)
            self.networks.append(network)
            try:
                train_glance(network, grid, pictures, taught, standard, training, history)
            except TrainingError as error:
                error.history = history
                raise
            finally:
                network.eval()
        return history

    def can_judge(self, history):
        """Whether the networks of every size have learned something in the joint training."""
        return all(history.get(f"{grid.side}-{PHASES[2]}") for grid in self.grids)

    def state(self):
        """All weights by name."""
        return {
            f"{grid.side}.{name}": array
            for grid, network in zip(self.grids, self.networks, strict=True)
            for name, array in backbones.to_arrays(network).items()
        }

    def load(self, state):
        """Take the weights of another's ``state``; answers itself."""
        for grid in self.grids:
            own = f"{grid.side}."
            arrays = {k[len(own) :]: v for k, v in state.items() if k.startswith(own)}
            network = Glance(grid.side, *self.shape)
            self.networks.append(backbones.from_arrays(network, arrays).eval())
        return self

    def patch_scores(self, pixels, logs):
        """Of each size, both scores of patches or their logs, (n, rows, columns, 2) float64."""
        answer = []
        with torch.inference_mode():
            for network, grid in zip(self.networks, self.grids, strict=True):
                # One by one: no image's scores depend on its company.
                images = (ready(self.standardised(one[None])) for one in pixels)
                scores = [network.scores(image, grid, logs)[0].numpy() for image in images]
                answer.append(np.stack(scores).astype(np.float64))
        return answer

    def scores(self, pixels, statistics, iad_weight):
        """Scores of all cells of 4 x 4 pixels, (n, H / 4, W / 4) float32, high for a defect.

        lambda s_IAD + (1 - lambda) s_DAD, and the mean over patch sizes; with ``statistics``, of
        their logs, in deviations from the mean.
        """
        scores = self.patch_scores(pixels, logs=statistics is not None)
        if statistics is not None:
            pairs = zip(scores, statistics, strict=True)
            scores = [(found - one[:, 0]) / one[:, 1] for found, one in pairs]
        weights, maps = np.array([iad_weight, 1 - iad_weight]), []
        for grid, found in zip(self.grids, scores, strict=True):
            maps.append([grid.spread(image) for image in found @ weights])
        return np.mean(maps, axis=0).astype(np.float32)

    def statistics(self, pixels):
        """Mean and deviation of log s_IAD and -log C over all patches, (sizes, 2, 2)."""
        answer = []
        for scores in self.patch_scores(pixels, logs=True):
            flat = scores.reshape(-1, 2)
            deviation = np.maximum(flat.std(axis=0), SMALLEST_DEVIATION)
            answer.append(np.stack([flat.mean(axis=0), deviation], axis=1))
        return np.stack(answer)

    def standardised(self, pixels):
        """(n, H, W, C) in [0, 1] -> tensor (n, C, H, W)."""
        images = (pixels - self.mean) / self.scale
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def pixels_of(X, share, seed):
    """Pixels of images held out of a training, and of all others: (n, H, W, C) float32 each.

    At least one is held out, or with a share of 0 none: then the first is None. Raises ValueError
    where nothing is left to learn from.
    """
    n_held_out = max(1, round(share * len(X))) if share else 0
    if len(X) <= n_held_out:
        raise ValueError(
            f"expected at least {n_held_out + 1} good images, of which {n_held_out} are held "
            f"out to standardize the scores, got {len(X)}"
        )
    pixels = X.arrays()[PIXELS]  # all at once: a bad image is named by its number
    order = np.random.default_rng(seed).permutation(len(X))
    parts = (np.sort(part) for part in np.split(order, [n_held_out]))
    return tuple(pixels[rows] if len(rows) else None for rows in parts)


def standard_of(pixels):
    """Mean and deviation of each channel of images (n, H, W, C)."""
    mean, scale = moments(pixels)
    return mean, np.maximum(scale, np.float32(SMALLEST_SCALE))


def pixel_maps(images, image_fit, n_channels):
    """Images as streamed FeatureMaps of one layer, their pixels at the input's size."""

    def extract(images, batch_size):
        for batch, frames in load_batches(images, image_fit, n_channels, batch_size):
            yield FeatureMaps({PIXELS: batch}, frames, image_fit)

    shapes = {PIXELS: (image_fit.height, image_fit.width, n_channels)}
    return FeatureMaps.streamed(images, extract, shapes, image_fit)
