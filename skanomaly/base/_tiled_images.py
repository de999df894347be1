"""Images as tiles, each of which is an image for a detector: those to learn from, and all of one.

What is given are FeatureMaps with one layer, the pixels of whole images; so are the tiles, with
the parts of the regions of interest that lie in them.
"""

import numpy as np
from sklearn.utils import check_random_state, gen_batches

from skanomaly.feature_maps import FeatureMaps

PIXELS = "pixels"  # the layer that the images themselves are
N_TILES = 1000  # to learn from, about: they are held in memory, and steps of training are for fewer


def count_tiles(tiling, n_images):
    """Tiles of each image that are learned from."""
    return min(len(tiling.boxes), max(1, N_TILES // n_images))


def draw_tiles(tiling, X, random_state):
    """Random tiles of all images, as many of each, that meet the regions of interest.

    Parameters
    ----------
    tiling : Tiling
    X : FeatureMaps of n images
        Each is read once.
    random_state : int, RandomState or None

    Returns
    -------
    tiles : FeatureMaps of m tiles
    places : ndarray of shape (m, 2), int
        Image and number of each tile, counted as in ``tiling.boxes``.
    """
    n_each, rng = count_tiles(tiling, len(X)), check_random_state(random_state)
    (height, width, n_channels) = X.layer_shapes[PIXELS]
    sides = tiling.tile_height, tiling.tile_width
    pixels = np.empty((len(X) * n_each, *sides, n_channels), dtype=np.float32)
    masks, places, done = [], [], 0
    for batch in X.batches():
        inside = batch.inside((height, width))
        for i, image in enumerate(batch.arrays()[PIXELS]):
            chosen = _meeting(tiling, None if inside is None else inside[i])
            if len(chosen) > n_each:
                chosen = np.sort(rng.choice(chosen, n_each, replace=False))
            for number in chosen:
                pixels[len(places)] = _cut(tiling, number, image)
                places.append((done + i, number))
                if inside is not None:
                    masks.append(_cut(tiling, number, inside[i]).copy())
        done += len(batch)
    tiles = FeatureMaps({PIXELS: pixels[: len(places)]}, rois=masks or None)
    return tiles, np.array(places)


def each_tile(tiling, X, batch_size):
    """All tiles of one image, a few at a time.

    Parameters
    ----------
    tiling : Tiling
    X : FeatureMaps of one image
    batch_size : int

    Yields
    ------
    numbers : range
        Of the tiles, as in ``tiling.boxes``.
    tiles : FeatureMaps
    meets : ndarray of bool
        Which of them meet the region of interest; of the others all counts.
    """
    image, inside = X.arrays()[PIXELS][0], X.inside(X.layer_shapes[PIXELS][:2])
    numbers = range(len(tiling.boxes))
    for part in gen_batches(len(numbers), batch_size):
        pixels = np.stack([_cut(tiling, number, image) for number in numbers[part]])
        masks, meets = None, np.ones(len(pixels), dtype=bool)
        if inside is not None:
            masks = [_cut(tiling, number, inside[0]) for number in numbers[part]]
            meets = np.array([mask.any() for mask in masks])
            masks = [mask if mask.any() else ~mask for mask in masks]
        yield numbers[part], FeatureMaps({PIXELS: pixels}, rois=masks), meets


def _cut(tiling, number, image):
    top, left, bottom, right = tiling.boxes[number]
    return image[top:bottom, left:right]


def _meeting(tiling, inside):
    """Numbers of the tiles that have a pixel inside."""
    numbers = np.arange(len(tiling.boxes))
    if inside is None:
        return numbers
    return numbers[[_cut(tiling, number, inside).any() for number in numbers]]
