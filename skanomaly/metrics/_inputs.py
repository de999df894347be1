"""Validation of the truth and the scores that are passed to metrics."""

from functools import partial
from typing import NamedTuple

import numpy as np

from skanomaly.images import read_rois
from skanomaly.utils.compiling import compiled
from skanomaly.utils.targets import check_mask, is_defect
from skanomaly.utils.threads import count_processors, single_threaded_pool

# Threads gather the good pixels in pieces, one per this many pixels, but not more than so many.
_PIECE_SIZE = 1_000_000
_MAX_PIECES = 4
_ALL = np.empty(0, dtype=bool)  # in place of a mask in which all pixels are True


class Truth(NamedTuple):
    """The mask (H, W) of an image, or None for a good one, its map, and where pixels count.

    Defect pixels all count; ``inside`` is None where all pixels do.
    """

    mask: np.ndarray | None
    scores: np.ndarray
    inside: np.ndarray | None = None

    def good(self):
        """Which pixels are good ones that count, (H, W) bool, or None: all."""
        if self.mask is None:
            return self.inside
        return ~self.mask if self.inside is None else self.inside & ~self.mask


def check_pairs(masks, maps, roi=None):
    """List of Truth of images; defect pixels outside of the region of interest are left out."""
    masks, maps = _as_sequence(masks, "masks"), _as_sequence(maps, "maps")
    if len(masks) != len(maps):
        raise ValueError(
            f"Expected as many masks as maps, got {len(masks)} masks and {len(maps)} maps. "
            "Pass one mask per map, in the same order; None stands for the mask of a good image."
        )
    if len(maps) == 0:
        raise ValueError("Expected at least one mask and its map, got none.")
    regions = read_rois(roi, len(maps))
    with single_threaded_pool(count_processors()) as pool:
        numbers = range(len(maps))
        return list(pool.map(lambda i: _check_pair(i, masks[i], maps[i], regions[i]), numbers))


def _as_sequence(images, name):
    """The images as something with a length; generators are consumed."""
    if images is None or np.isscalar(images) or getattr(images, "ndim", 1) == 0:
        raise ValueError(
            f"Expected {name} to hold one entry per image, got {images!r}. Pass an array with the "
            "images along the first axis, or a list."
        )
    return images if hasattr(images, "__len__") else list(images)


def _check_pair(i, mask, scores, inside):
    """Truth of one image: the mask, the map of finite floats and the region of one shape."""
    scores = _check_map(i, scores)
    if inside is not None and inside.shape != scores.shape:
        raise ValueError(
            f"roi of image {i} has shape {inside.shape}, but maps[{i}] has shape {scores.shape}; "
            "expected the same (H, W). Pass the region in the size of the image."
        )
    if mask is None:
        return Truth(None, scores, inside)
    mask = check_mask(i, mask)
    if mask.shape != scores.shape:
        raise ValueError(
            f"masks[{i}] has shape {mask.shape}, but maps[{i}] has shape {scores.shape}; expected "
            "the same (H, W). Score maps have the size of the image: pass the mask in that size, "
            "neither resized nor cropped."
        )
    mask = mask if inside is None else mask & inside
    return Truth(mask if mask.any() else None, scores, inside)


def _check_map(i, scores):
    """One score map, float32 or float64."""
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(
            f"maps[{i}] has shape {scores.shape}; expected (H, W) with at least one pixel. Pass "
            "one image as x[None], and drop a channel axis with x[..., 0]."
        )
    if scores.dtype.kind not in "fiu":
        raise ValueError(
            f"maps[{i}] has dtype {scores.dtype}; expected scores, high where a defect is. Truth "
            "comes first, then scores: metric(masks, maps). To evaluate a binary map, pass "
            "map.astype(float)."
        )
    scores = _as_floats(scores)
    if not np.isfinite(scores).all():
        raise ValueError(
            f"maps[{i}] holds NaN or infinity; expected finite scores. Compute the map of this "
            "image again, or leave the image out of both lists."
        )
    return scores


def _as_floats(scores):
    """Numbers as float32 or float64, in the machine's order of bytes."""
    # Float32 represents float16 exactly; all other types need float64.
    narrow = scores.dtype.kind == "f" and scores.dtype.itemsize <= 4
    return scores.astype(np.float32 if narrow else np.float64, copy=False)


def count_pixels(pairs):
    """Numbers of good pixels and of defect pixels that count; ValueError unless there are both."""
    n_defect = sum(np.count_nonzero(one.mask) for one in pairs if one.mask is not None)
    n_inside = sum(
        one.scores.size if one.inside is None else np.count_nonzero(one.inside) for one in pairs
    )
    n_good = int(n_inside) - n_defect
    check_both_classes(n_good, n_defect)
    return n_good, n_defect


def defect_pixels(pairs):
    """Scores (n,) of all defect pixels, image by image."""
    return np.concatenate([one.scores[one.mask] for one in pairs if one.mask is not None])


def good_pixels(pairs, lowest=-np.inf):
    """Scores of the good pixels from the lowest one on, as a list of functions for as many threads.

    Each returns those of some of the images, an array (n,).
    """
    n_most = sum(one.scores.size for one in pairs)
    n_pieces = min(_MAX_PIECES, count_processors(), -(-n_most // _PIECE_SIZE), len(pairs))
    dtype = np.result_type(*{one.scores.dtype for one in pairs})
    pieces = [pairs[i::n_pieces] for i in range(n_pieces)]
    return [partial(_gather, piece, dtype, dtype.type(lowest)) for piece in pieces]


def _gather(pairs, dtype, lowest):
    """Scores (n,) of the good pixels of some images from the lowest one on."""
    gathered = np.empty(sum(one.scores.size for one in pairs) + 1, dtype)
    n = 0
    for one in pairs:
        good = one.good()
        good = _ALL if good is None else good.ravel()
        n = _append(one.scores.ravel(), good, lowest, gathered, n)
    return gathered[:n]


@compiled(nogil=True)
def _append(scores, counted, lowest, gathered, n):
    """Append the scores that count, from the lowest on; returns how many are gathered then.

    The array has room for one more than all scores: each is written, and kept if it counts.
    """
    for i in range(scores.shape[0]):
        gathered[n] = scores[i]
        n += scores[i] >= lowest and (counted.shape[0] == 0 or counted[i])
    return n


def check_both_classes(n_good, n_defect):
    """Raise ValueError for pixels of only one class: every curve needs both."""
    if n_defect == 0:
        raise ValueError(
            "The metric needs good and defect pixels, but no pixel is marked as defect. Add "
            "images with defects and their masks, nonzero on the defect and inside of roi."
        )
    if n_good == 0:
        raise ValueError(
            "The metric needs good and defect pixels, but every pixel is marked as defect, none "
            "as good. Check that the masks are zero outside the defect, or add good images."
        )


def split_images(y, scores):
    """Scores of the good and of the defective images; ValueError unless there are both."""
    defective = is_defect(y)
    scores = np.asarray(scores)
    if scores.ndim != 1 or scores.dtype.kind not in "fiu":
        raise ValueError(
            f"scores has shape {scores.shape} and dtype {scores.dtype}; expected one number per "
            "image, high = defect. Truth comes first, then scores."
        )
    if len(scores) != len(defective):
        raise ValueError(
            f"Expected one score per image, but y holds {len(defective)} images and scores "
            f"{len(scores)}. Pass both for the same images, in the same order."
        )
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"scores[{bad}] is {scores[bad]}; expected finite scores, high = defect.")
    for kind, there in (("defect", defective.any()), ("good", not defective.all())):
        if not there:
            raise ValueError(
                f"The metric needs good and defect images, but y holds no {kind} image. "
                f"Add {kind} images to y and scores."
            )
    scores = _as_floats(scores)
    return scores[~defective], scores[defective]
