"""The teacher of GlobalLocal: features of an extractor, averaged over each patch, R(p)."""

import numpy as np
import torch
from sklearn.utils import gen_batches

from skanomaly.detectors._prefitted import check_fitted
from skanomaly.detectors.global_local._patch_grid import PatchGrid
from skanomaly.feature_extraction import FilterBank

TEACHER_STRIDE = 8  # pixels from one patch that the teacher describes to the next
N_STANDARDIZED = 64  # evenly spaced images, on which its features are standardized
BATCH_SIZE = 16  # images


def check_teacher(teacher, image_fit, n_channels):
    """Check that a teacher is fitted on such images and sees all of the input.

    Parameters
    ----------
    teacher : FeatureExtractor, FilterBank or None
    image_fit : ImageFit
        How images are brought to the input's size.
    n_channels : int
        Of the images.

    Raises
    ------
    ValueError
        It is not.
    """
    if teacher is None:
        return
    check_fitted(teacher, "teacher", "fit it on good images first, or leave it out")
    if teacher.n_channels_in_ != n_channels:
        raise ValueError(
            f"expected a teacher of images with {n_channels} channels, got one that was fitted on "
            f"{teacher.n_channels_in_}; fit it on these images, or leave it out"
        )
    size = teacher.image_fit
    if size.resize != "stretch" and size.height * image_fit.width != size.width * image_fit.height:
        raise ValueError(
            f'expected a teacher with resize="stretch", or with the input\'s aspect ratio, got '
            f"{size.height} x {size.width} by {size.resize!r} for an input of "
            f"{image_fit.height} x {image_fit.width}"
        )


def default_teacher(images, seed):
    """A FilterBank learned from the good images, a list of n arrays (H, W, C)."""
    size = [max(side, FilterBank.smallest_side) for side in images[0].shape[:2]]
    return FilterBank(image_size=size, random_state=seed).fit(images)


def n_teacher_features(teacher, n_channels):
    """Length of a teacher's feature vectors, also of a default one that is not fitted yet."""
    if teacher is None:
        side = FilterBank.smallest_side  # the features are as many at any size
        teacher = default_teacher([np.zeros((side, side, n_channels), dtype=np.float32)], 0)
    return sum(shape[2] for shape in teacher.layer_shapes_.values())


def teacher_grid(side, height, width):
    """The patches that a teacher describes, a PatchGrid."""
    return PatchGrid(side, height, width, TEACHER_STRIDE)


def teacher_features(teacher, images, side):
    """A teacher's features of all patches of its grid, standardized.

    Parameters
    ----------
    teacher : FeatureExtractor or FilterBank
    images : list of n ndarray of shape (H, W, C), float32 in [0, 1]
    side : int
        Of the patches, in pixels.

    Returns
    -------
    tensor of shape (n, rows, columns, D), float16
        D is the number of channels of all layers. A constant one is 0.
    """
    grid = teacher_grid(side, *images[0].shape[:2])

    def pooled(images):
        layers = teacher.transform(images).arrays()
        return np.concatenate([grid.pool(maps) for maps in layers.values()], axis=3)

    chosen = np.linspace(0, len(images) - 1, min(N_STANDARDIZED, len(images))).astype(int)
    mean, scale = channel_moments(pooled([images[i] for i in chosen]))
    scale = np.where(scale > 0, scale, 1)
    features = np.empty((len(images), *grid.shape, len(mean)), dtype=np.float16)
    for part in gen_batches(len(images), BATCH_SIZE):
        features[part] = (pooled(images[part]) - mean) / scale
    return torch.from_numpy(features)


def channel_moments(maps):
    """Mean and standard deviation of the channels of maps (n, h, w, C): (C,) float32 each.

    An image at a time, so that nothing as large as the maps is held beside them.
    """
    mean = np.mean([one.mean(axis=(0, 1), dtype=np.float64) for one in maps], axis=0)
    square = np.mean([np.square(one - mean).mean(axis=(0, 1)) for one in maps], axis=0)
    return mean.astype(np.float32), np.sqrt(square).astype(np.float32)
