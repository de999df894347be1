"""What a teacher says of patches: the features of an extractor, averaged over each."""

import numpy as np
import torch
from sklearn.utils import gen_batches

from skanomaly.detectors._kept import check_fitted
from skanomaly.detectors._local_network import PatchGrid
from skanomaly.feature_extraction._filter_bank import SMALLEST_SIDE, FilterBank

TAUGHT_STRIDE = 8  # pixels between the patches that the teacher describes
N_STANDARD = 64  # images on which the teacher's vectors are standardised, evenly spaced


def check_teacher(teacher, image_fit, n_channels):
    """Raises ValueError unless a teacher is fitted on such images and sees all of the input."""
    if teacher is None:
        return
    check_fitted(teacher, "teacher", "fit it on good pictures first, or leave it out")
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


def usual_teacher(pixels, seed):
    """A FilterBank learned from the good images (n, H, W, C)."""
    size = [max(side, SMALLEST_SIDE) for side in pixels.shape[1:3]]
    return FilterBank(image_size=size, random_state=seed).fit(pixels)


def taught_grid(side, height, width):
    """The patches that a teacher describes."""
    return PatchGrid(side, height, width, TAUGHT_STRIDE)


def taught_vectors(teacher, pixels, side):
    """A teacher's vectors of patches, standardised: tensor (n, rows, columns, D) float16."""
    grid = taught_grid(side, *pixels.shape[1:3])

    def vectors(images):
        layers = teacher.transform(images).arrays()
        return np.concatenate([grid.pool(maps) for maps in layers.values()], axis=3)

    chosen = np.linspace(0, len(pixels) - 1, min(N_STANDARD, len(pixels))).astype(int)
    mean, scale = moments(vectors(pixels[chosen]))
    scale = np.where(scale > 0, scale, 1)
    parts = gen_batches(len(pixels), 16)
    pieces = [((vectors(pixels[part]) - mean) / scale).astype(np.float16) for part in parts]
    return torch.from_numpy(np.concatenate(pieces))


def moments(maps):
    """Mean and deviation of the channels of maps (n, h, w, C), an image at a time: (C,) float32."""
    mean = np.mean([one.mean(axis=(0, 1), dtype=np.float64) for one in maps], axis=0)
    square = np.mean([np.square(one - mean).mean(axis=(0, 1)) for one in maps], axis=0)
    return mean.astype(np.float32), np.sqrt(square).astype(np.float32)
