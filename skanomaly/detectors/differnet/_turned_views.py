"""Views of an image for DifferNet: turned about its center, and described by extractors.

f_s(u)   features of a view at the cell u of a layer, at scale s of the input
v        means of all maps, joined over layers and scales: one vector for each view
"""

from numbers import Real

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import gen_batches

from skanomaly.feature_extraction import FilterBank
from skanomaly.training import AUGMENTATIONS, augment, matrices, warp

AT_ONCE = 16  # views whose features are held
SCALES = (1.0, 0.5, 0.25)  # of a backbone's input; a FilterBank has such scales within itself


def even_angles(n_views, max_angle):
    """Angles (n_views,) in degrees, evenly spaced from -max_angle on, the 0 among them first."""
    angles = 2 * max_angle * np.arange(n_views) / n_views
    return np.where(angles < max_angle, angles, angles - 2 * max_angle)


def drawn_angles(n_views, max_angle, rng):
    """Angles (n_views,) in degrees, 0 and then drawn between -max_angle and max_angle."""
    return np.append(0.0, rng.uniform(-max_angle, max_angle, n_views - 1))


def turned_views(image, angles):
    """An image turned about its center, its edges reflected into the corners.

    Parameters
    ----------
    image : ndarray of shape (H, W, C), float32 in [0, 1]
    angles : ndarray of shape (n,)
        In degrees, counterclockwise; the first one is 0: the image as it is.

    Returns
    -------
    ndarray of shape (n, H, W, C), float32 in [0, 1]
    """
    if len(angles) == 1:
        return image[None]
    height, width = image.shape[:2]
    radians = torch.from_numpy(np.deg2rad(angles[1:])).float()[:, None]
    theta = matrices(radians, "rotation")  # (n - 1, 2, 3)
    theta[:, 0, 1] *= height / width  # its coordinates are in half sides, which may be unequal
    theta[:, 1, 0] *= width / height
    tensor = _channels_first(image).expand(len(theta), -1, -1, -1)
    turned = warp(tensor, theta).permute(0, 2, 3, 1).numpy()
    return np.concatenate([image[None], turned.clip(0, 1)])


def training_views(image, augmentations, n_views, max_angle, rng):
    """An image and its augmented copies (n, H, W, C), each turned by angles that are drawn."""
    copies = augment(_channels_first(image), augmentations).permute(0, 2, 3, 1).numpy()
    views = [turned_views(one, drawn_angles(n_views, max_angle, rng)) for one in copies]
    return np.concatenate(views)


def check_augmentations(augmentations, extractor):
    """Raise ValueError for copies that are unknown, or of features, there being no extractor."""
    unknown = set(augmentations) - set(AUGMENTATIONS)
    if unknown:
        raise ValueError(f"expected augmentations among {AUGMENTATIONS}, got {sorted(unknown)}")
    if len(augmentations) and extractor is None:
        raise ValueError(
            f"expected no augmentations of features, got {augmentations!r}; they are of images: "
            "give an extractor, DifferNet(FilterBank(), augmentations=...)"
        )


def count_copies(augmentations):
    """How many copies there are of an image, itself among them."""
    return len(augment(torch.zeros(1, 8, 8), augmentations))


def _channels_first(image):
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def fit_extractors(extractor, scales, pixels, seed):
    """Clones of an extractor, fitted on images, one for each scale of its input.

    Parameters
    ----------
    extractor : BaseExtractor
    scales : sequence of float, or None
        Of its ``image_size``; None: 1, 1/2 and 1/4, or 1 for a FilterBank.
    pixels : ndarray of shape (n, H, W, C), float32 in [0, 1]
        Good images.
    seed : int
        Of those whose own ``random_state`` is None.

    Returns
    -------
    list of BaseExtractor

    Raises
    ------
    ValueError
        The scales are none, or not of (0, 1].
    """
    if scales is None:
        scales = (1.0,) if isinstance(extractor, FilterBank) else SCALES
    if not len(scales) or not all(isinstance(one, Real) and 0 < one <= 1 for one in scales):
        raise ValueError(
            f"expected scales as numbers above 0, up to 1, of the input, got {scales!r}"
        )
    size, fitted = extractor.image_fit, []
    for scale in scales:
        one = clone(extractor).set_params(verbose=0, cache=None)  # of views, drawn for this fit
        if scale != 1:
            one.set_params(image_size=(round(scale * size.height), round(scale * size.width)))
        if one.get_params(deep=False).get("random_state", seed) is None:
            one.set_params(random_state=seed)
        fitted.append(one.fit(pixels))
        known = getattr(one, "weights_fingerprint_", None)
        if known is not None and known == fitted[0].weights_fingerprint_:
            one.weights_ = fitted[0].weights_  # one network for all scales, in a file too
    return fitted


def features_of(extractors, views):
    """Features {layer: (b, h, w, C)} of views (b, H, W, C) at all scales."""
    return {
        f"{i}.{name}": maps
        for i, extractor in enumerate(extractors)
        for name, maps in extractor.transform(views).arrays().items()
    }


def pooled(layers, inside=None):
    """Means over the maps of all layers, joined: vectors (b, D), float64.

    ``inside``, a function of a grid, returns the cells (b, h, w) that count, or None.
    """
    means = []
    for maps in layers.values():
        some = None if inside is None else inside(maps.shape[1:3])
        where = {} if some is None else {"where": some[..., None]}
        means.append(maps.mean(axis=(1, 2), dtype=np.float64, **where))
    return np.concatenate(means, axis=1)


def view_vectors(extractors, views):
    """Vectors (n, D) of views (n, H, W, C)."""
    parts = gen_batches(len(views), AT_ONCE)
    return np.concatenate([pooled(features_of(extractors, views[part])) for part in parts])
