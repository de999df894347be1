"""Spoil good images in known places."""

import numpy as np
from scipy.ndimage import binary_closing, label
from sklearn.utils import check_random_state

from skanomaly._images import check_images, image_name, read_image
from skanomaly.datasets._defect_kinds import KINDS, ON_REQUEST

_VISIBLE = 0.02  # of the brightest value; less is lost in the noise of a camera
_FEWEST_PIXELS = 6
_ATTEMPTS = 8


def make_defects(images, *, kinds=None, size=1.0, random_state=None):
    """Paint one defect into each image and say which pixels it changed.

    Parameters
    ----------
    images : array of shape (n, H, W[, C]), or list of arrays, PIL images or paths
        Good images: uint8, uint16 or floats in [0, 1], of any number of channels. They are left
        as they are.
    kinds : sequence of str or None, default=None
        The kinds that take turns: image i gets ``kinds[i % len(kinds)]``. One of "scratch",
        "crack", "stain", "hole", "missing" (a part smoothed away), "misaligned" (a piece shifted
        and turned), "blur", "spot" (paint; black or white on grey images), "dent" and "fibre" (a
        hair), or "bent" (lines pushed aside). With None all but the last take turns in this order,
        and an image on which a kind does not show, as a blur on an even surface, gets the next.
    size : float, default=1.0
        Factor on the lengths of the defects, which follow the shorter side of the image.
    random_state : int, RandomState instance or None, default=None
        Makes the defects reproducible. What image i gets depends on this, on i and on the image
        alone.

    Returns
    -------
    spoilt : ndarray or list, as `images`
        Same shapes and types; of paths and PIL images (H, W, C) arrays. Outside the mask each
        pixel keeps its value.
    masks : ndarray of shape (n, H, W), bool, or list of (H, W) arrays where `images` is no array
        True exactly where `spoilt` differs from `images`; never empty.
    kinds : list of str
        The kind each image got.

    Raises
    ------
    ValueError
        If there are no images, one cannot be read, a kind is unknown, or a kind asked for by
        name leaves no trace on an image.

    See Also
    --------
    make_textures : Good images to spoil.

    Examples
    --------
    >>> from skanomaly.datasets import make_defects, make_textures
    >>> good = make_textures(3, kind="brushed", size=64, random_state=0)
    >>> spoilt, masks, kinds = make_defects(good, kinds=["scratch", "stain"], random_state=0)
    >>> kinds
    ['scratch', 'stain', 'scratch']
    >>> bool((masks == (spoilt != good).any(axis=3)).all())
    True
    """
    images = check_images(images)
    if not size > 0:
        raise ValueError(f"size must be positive, got {size!r}.")
    turns = _check_kinds(kinds)
    seeds = check_random_state(random_state).randint(2**31 - 1, size=len(images))
    spoilt, masks, painted = [], [], []
    for i, seed in enumerate(seeds):
        name = image_name(images[i], i)
        first = i % len(turns)
        candidates = turns[first:] + turns[:first] if kinds is None else [turns[first]]
        image = read_image(images[i], name)  # (H, W, C)
        if isinstance(images[i], np.ndarray):
            image = images[i].reshape(image.shape)  # in the precision it was given in
        result, mask, kind = _spoil(image, candidates, size, np.random.default_rng(seed), name)
        is_flat = isinstance(images[i], np.ndarray) and images[i].ndim == 2
        spoilt.append(result[:, :, 0] if is_flat else result)
        masks.append(mask)
        painted.append(kind)
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OUS":  # not one of paths
        return np.stack(spoilt), np.stack(masks), painted
    return spoilt, masks, painted


def _check_kinds(kinds):
    if kinds is None:
        return [kind for kind in KINDS if kind not in ON_REQUEST]
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds must be some of {list(KINDS)}, got {kinds}.")
    return kinds


def _spoil(image, candidates, size, rng, name):
    """Image (H, W, C) with the first candidate that shows, its mask (H, W), and which it was."""
    top = _brightest(image)
    scaled = image.astype(np.float32) / top
    for kind in candidates:
        for _ in range(_ATTEMPTS):
            painted = np.clip(KINDS[kind](rng, scaled, size), 0, 1)
            mask = _visible(np.abs(painted - scaled).max(axis=2))
            if mask.sum() >= _FEWEST_PIXELS:
                return _write(image, painted, mask, top), mask, kind
    raise ValueError(
        f"{name}: a defect of kind {candidates[0]!r} does not show on this image; "
        "ask for another kind, such as 'hole', or for a larger size"
    )


def _brightest(image):
    """The value that counts as 1; of 16 bits cameras use a part, so there it is the largest."""
    if image.dtype == np.uint8:
        return 255
    if image.dtype == np.uint16:
        return max(int(image.max()), 255)
    return 1.0


def _visible(change):
    """Pixels (H, W) of visible change, without pinholes and without single stray pixels."""
    seen = change > _VISIBLE
    seen |= binary_closing(seen, iterations=2) & (change > 0)
    regions, _ = label(seen, structure=np.ones((3, 3)))
    return seen & (np.bincount(regions.ravel()) >= _FEWEST_PIXELS)[regions]


def _write(image, painted, mask, top):
    """Image with the painted pixels of the mask, each changed by at least one step of its type.

    Rounding can bring a pixel inside the defect back to its old value; it would make a hole in
    the mask that nobody could see.
    """
    step = top / 255
    if image.dtype.kind == "u":
        painted, step = np.rint(painted * top), max(int(step), 1)
    painted = painted.astype(image.dtype)
    unchanged = mask & (painted == image).all(axis=2)
    darker, lighter = image - image.dtype.type(step), image + image.dtype.type(step)
    painted = np.where(unchanged[:, :, None], np.where(image > top / 2, darker, lighter), painted)
    return np.where(mask[:, :, None], painted, image)
