"""Paint defects into good images, with their masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.ndimage import binary_closing, label
from sklearn.utils import check_random_state

from skanomaly.datasets._defect_kinds import KINDS, ON_REQUEST
from skanomaly.images import check_images, image_name, read_image

VISIBLE = 0.02  # of the brightest value; a smaller change is hidden by camera noise
MIN_PIXELS = 6
ATTEMPTS = 8


def make_defects(
    images: Any,
    *,
    kinds: Sequence[str] | None = None,
    size: float = 1.0,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[Any, Any, list[str]]:
    """Paint one defect into each image, and return the masks of the pixels changed.

    Parameters
    ----------
    images : array of shape (n, H, W[, C]), or list of arrays, PIL images or paths
        Good images: uint8, uint16 or floats in [0, 1], with any number of channels. They are not
        modified.
    kinds : sequence of str or None, default=None
        The kinds of defects: image i gets ``kinds[i % len(kinds)]``. Each is one of "scratch",
        "crack", "stain", "hole", "missing" (a detail smoothed away), "misaligned" (a shifted and
        rotated piece), "blur", "spot" (paint; black or white on gray images), "dent" and "fibre" (a
        hair), or "bent" (displaced lines). None: all but the last alternate in this order; an image
        on which a kind is not visible, such as a blur on an even surface, gets the next kind.
    size : float, default=1.0
        Factor on the size of the defects, which is proportional to the shorter side of the image.
    random_state : int, RandomState instance or None, default=None
        Makes the defects reproducible. The defect of image i depends only on this, on i and on the
        image.

    Returns
    -------
    defective : ndarray or list, as `images`
        Images of the same shapes and dtypes; (H, W, C) arrays for paths and PIL images. Pixels
        outside the mask are unchanged.
    masks : ndarray of shape (n, H, W), bool, or list of (H, W) arrays if `images` is not an array
        True exactly where `defective` differs from `images`; never empty.
    kinds : list of str
        The kind of the defect of each image.

    Raises
    ------
    ValueError
        If there are no images, an image cannot be read, a kind is unknown, or a requested kind is
        not visible on an image.

    See Also
    --------
    make_textures : Generate good images.

    Examples
    --------
    >>> from skanomaly.datasets import make_defects, make_textures
    >>> good = make_textures(3, kind="brushed", size=64, random_state=0)
    >>> defective, masks, kinds = make_defects(good, kinds=["scratch", "stain"], random_state=0)
    >>> kinds
    ['scratch', 'stain', 'scratch']
    >>> bool((masks == (defective != good).any(axis=3)).all())
    True
    """
    images = check_images(images)
    if not size > 0:
        raise ValueError(f"size must be positive, got {size!r}.")
    turns = _check_kinds(kinds)
    seeds = check_random_state(random_state).randint(2**31 - 1, size=len(images))
    defective, masks, painted = [], [], []
    for i, seed in enumerate(seeds):
        name = image_name(images[i], i)
        first = i % len(turns)
        candidates = turns[first:] + turns[:first] if kinds is None else [turns[first]]
        image = read_image(images[i], name)  # (H, W, C)
        if isinstance(images[i], np.ndarray):
            image = images[i].reshape(image.shape)  # with its own dtype
        result, mask, kind = _add_defect(image, candidates, size, np.random.default_rng(seed), name)
        is_flat = isinstance(images[i], np.ndarray) and images[i].ndim == 2
        defective.append(result[:, :, 0] if is_flat else result)
        masks.append(mask)
        painted.append(kind)
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OUS":  # no paths
        return np.stack(defective), np.stack(masks), painted
    return defective, masks, painted


def _check_kinds(kinds):
    """The kinds in turn, as a list."""
    if kinds is None:
        return [kind for kind in KINDS if kind not in ON_REQUEST]
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds must be some of {list(KINDS)}, got {kinds}.")
    return kinds


def _add_defect(image, candidates, size, rng, name):
    """Image (H, W, C) with a defect, its mask (H, W), and its kind: the first visible candidate."""
    top = _brightest(image)
    scaled = image.astype(np.float32) / top
    for kind in candidates:
        for _ in range(ATTEMPTS):
            painted = np.clip(KINDS[kind](rng, scaled, size), 0, 1)
            mask = _visible(np.abs(painted - scaled).max(axis=2))
            if mask.sum() >= MIN_PIXELS:
                return _write(image, painted, mask, top), mask, kind
    raise ValueError(
        f"{name}: a defect of kind {candidates[0]!r} is not visible on this image; "
        "use another kind, such as 'hole', or a larger size"
    )


def _brightest(image):
    """The value that corresponds to 1.

    Cameras use only a part of 16 bits, so for these it is the largest value of the image.
    """
    if image.dtype == np.uint8:
        return 255
    if image.dtype == np.uint16:
        return max(int(image.max()), 255)
    return 1.0


def _visible(change):
    """Pixels (H, W) of visible change, without small holes and isolated pixels."""
    seen = change > VISIBLE
    seen |= binary_closing(seen, iterations=2) & (change > 0)
    regions, _ = label(seen, structure=np.ones((3, 3)))
    return seen & (np.bincount(regions.ravel()) >= MIN_PIXELS)[regions]


def _write(image, painted, mask, top):
    """Image with the painted pixels of the mask, each changed by at least one step of its dtype.

    Rounding can restore the old value of a pixel inside the defect; changing it anyway avoids
    invisible holes in the mask.
    """
    step = top / 255
    if image.dtype.kind == "u":
        painted, step = np.rint(painted * top), max(int(step), 1)
    painted = painted.astype(image.dtype)
    unchanged = mask & (painted == image).all(axis=2)
    darker, lighter = image - image.dtype.type(step), image + image.dtype.type(step)
    painted = np.where(unchanged[:, :, None], np.where(image > top / 2, darker, lighter), painted)
    return np.where(mask[:, :, None], painted, image)
