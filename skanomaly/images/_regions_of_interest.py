"""Regions of interest: which pixels of an image count, and which patches of a grid."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from skanomaly.exceptions import ImageError
from skanomaly.images._fitting import ImageFit
from skanomaly.images._reading import read_image

SIDE = 256  # pixels, about: the foreground is looked for in an image of so many
N_LEVELS = 256
SMALLEST_SHARE = 0.01  # of the largest part: what is smaller on the ground is dirt
LEAST_SEPARATED = 0.5  # share of the variance that lies between ground and parts


def is_one_mask(roi: Any) -> bool:
    """Whether a parameter ``roi`` is one mask for all images: a file, or an array (H, W)."""
    return isinstance(roi, (str, Path)) or (isinstance(roi, np.ndarray) and roi.ndim == 2)


def read_roi(item: Any, name: str = "roi") -> np.ndarray:
    """A region of interest as a mask.

    Parameters
    ----------
    item : ndarray of shape (H, W), or image file
        True, or any number but 0, inside.
    name : str, default="roi"
        What it is called in messages.

    Returns
    -------
    ndarray of shape (H, W), bool

    Raises
    ------
    ValueError
        It is no mask, or empty.
    """
    if isinstance(item, (np.ndarray, list, tuple)):
        mask = np.asarray(item)
    else:
        mask = np.any(read_image(item, name), axis=2, keepdims=True)[:, :, 0]
    if mask.ndim != 2 or mask.dtype.kind not in "biuf" or mask.size == 0:
        raise ValueError(
            f"{name}: expected a mask of shape (H, W), True inside, got shape {mask.shape} of "
            f"{mask.dtype}"
        )
    mask = mask.astype(bool)
    if not mask.any():
        raise ValueError(
            f"{name}: expected a region of interest with at least one pixel, got an empty one; it "
            "is True, or not 0, where patches count"
        )
    return mask


def check_own_size(mask: np.ndarray, frame: tuple[int, int], name: str) -> None:
    """ValueError unless a region of interest (H, W) has the height and width of an image."""
    if mask.shape != tuple(frame):
        raise ValueError(
            f"{name}: expected a region of interest of the image's own size, {frame[0]} x "
            f"{frame[1]} pixels, got one of {mask.shape[0]} x {mask.shape[1]}; a mask is neither "
            "resized nor cropped"
        )


def read_rois(roi: Any, n_images: int) -> list:
    """The region of interest of each image, (H, W) bool or None for the whole of it.

    Of one mask (H, W) for all images, or one for each; ValueError for another number of them.
    """
    if roi is None:
        return [None] * n_images
    if is_one_mask(roi) or (len(roi) and np.ndim(roi[0]) == 1):
        return [read_roi(roi)] * n_images
    if len(roi) != n_images:
        raise ValueError(
            f"Expected roi as one mask (H, W) for all images or one for each, got {len(roi)} for "
            f"{n_images} images; None stands for the whole of an image."
        )
    return [None if one is None else read_roi(one, f"roi[{i}]") for i, one in enumerate(roi)]


def blank_outside(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image whose pixels outside of a region of interest have the mean color inside.

    Parameters
    ----------
    image : ndarray of shape (H, W, C)
    mask : ndarray of shape (H, W), bool
        With at least one pixel inside.

    Returns
    -------
    ndarray of shape (H, W, C), of the image's dtype
        It does not depend on the pixels outside.
    """
    mean = image[mask].mean(axis=0, dtype=np.float64)  # (C,)
    if image.dtype.kind in "iu":
        mean = np.rint(mean)
    return np.where(mask[:, :, None], image, mean.astype(image.dtype))


def pack_mask(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) as bits, (ceil(H * W / 8),) uint8."""
    return np.packbits(mask)


def unpack_mask(bits: np.ndarray, frame: Any) -> np.ndarray:
    """The mask (H, W) of bits from :func:`pack_mask` and the frame (H, W)."""
    height, width = map(int, frame)
    return np.unpackbits(bits, count=height * width).reshape(height, width).view(bool)


def cells_inside(
    bits: np.ndarray, frame: Any, image_fit: ImageFit, grid: tuple[int, ...]
) -> np.ndarray:
    """The cells of a grid that lie in a region of interest.

    Parameters
    ----------
    bits : ndarray, uint8
        From :func:`pack_mask`.
    frame : (H, W)
        Of the image.
    image_fit : ImageFit
    grid : (h, w)

    Returns
    -------
    ndarray of shape (h, w), bool
        True where at least half of a cell's pixels are inside; where no cell has as many, those
        with any.
    """
    rows, columns = image_fit.cell_edges(grid, frame)
    counts = np.cumsum(unpack_mask(bits, frame), axis=1, dtype=np.int32)
    counts = np.pad(counts, ((0, 0), (1, 0)))[:, columns]  # (H, w + 1)
    counts = np.diff(counts, axis=1)  # (H, w), pixels inside in each row of the image
    total = np.pad(np.cumsum(counts, axis=0), ((1, 0), (0, 0)))[rows]  # (h + 1, w)
    n_inside = np.diff(total, axis=0)  # (h, w)
    n_pixels = np.outer(np.diff(rows), np.diff(columns))
    inside = (2 * n_inside >= n_pixels) & (n_inside > 0)
    return inside if inside.any() else n_inside > 0


def foreground(image: np.ndarray) -> np.ndarray:
    """The parts in an image that lie on an even ground, as a region of interest.

    Otsu's threshold divides the pixels in two by their saturation or their brightness, whichever
    divides them more clearly. The ground is what most of the image's border belongs to. Holes in
    parts are filled, and what is smaller than a hundredth of the largest part is left out. The
    outline is found to about 1/256 of the image's side.

    It is never used unless it is asked for, as in ``FilterBank(roi=foreground)``: a defect that
    looks like the ground and touches a part's outline lies outside of it and is not seen.

    Parameters
    ----------
    image : ndarray of shape (H, W) or (H, W, C), uint8, uint16 or float in [0, 1]

    Returns
    -------
    ndarray of shape (H, W), bool
        True on the parts.

    Raises
    ------
    ImageError
        No ground is told from parts. It is a ValueError.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.images import foreground
    >>> image = np.zeros((64, 64), np.uint8)
    >>> image[16:48, 16:48] = 200
    >>> image[30, 30] = 0  # a hole
    >>> mask = foreground(image)
    >>> int(mask.sum()) == 32 * 32
    True
    """
    image = read_image(image)
    step = max(1, min(image.shape[:2]) // SIDE)
    small = image[::step, ::step].astype(np.float32)
    candidates = [small.mean(axis=2)]
    if small.shape[2] >= 3:
        colors = small[:, :, :3]
        highest = colors.max(axis=2)
        candidates.append((highest - colors.min(axis=2)) / np.maximum(highest, 1e-6))
    share, is_high = max((_divided(values) for values in candidates), key=lambda one: one[0])
    border = np.concatenate([is_high[0], is_high[-1], is_high[:, 0], is_high[:, -1]])
    mask = ~is_high if border.mean() > 0.5 else is_high
    mask = _large_parts(ndimage.binary_fill_holes(mask))
    if share < LEAST_SEPARATED or not mask.any():
        raise ImageError(
            "expected an image of parts on an even ground, got one in which neither brightness "
            "nor saturation tells the two; pass a mask as roi"
        )
    mask = mask.repeat(step, axis=0).repeat(step, axis=1)
    return mask[: image.shape[0], : image.shape[1]]


def _divided(values):
    """Otsu's share of the variance between two classes (0 where all is one), and the upper one."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return 0.0, np.zeros(values.shape, dtype=bool)
    counts, edges = np.histogram(values, bins=N_LEVELS, range=(low, high))
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below  # neither is 0: the extremes lie in the first and the last bin
    sums = np.cumsum(counts * centers)
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    best = int(between.argmax())
    share = between[best] / counts.sum() ** 2 / np.average((centers - sums[-1] / counts.sum()) ** 2,
                                                            weights=counts)  # fmt: skip
    return float(share), values >= edges[best + 1]


def _large_parts(mask):
    """A mask without its parts of less than a hundredth of the largest one."""
    labels, n = ndimage.label(mask)
    if n == 0:
        return mask
    sizes = np.bincount(labels.ravel())[1:]
    return np.isin(labels, 1 + np.flatnonzero(sizes >= SMALLEST_SHARE * sizes.max()))
