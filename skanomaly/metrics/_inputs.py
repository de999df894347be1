"""Validation of the truth and the scores that are passed to metrics."""

import numpy as np

from skanomaly.utils.targets import check_mask, is_defect


def check_pairs(masks, maps):
    """List of (mask, map), both (H, W): a bool mask, or None for a good image, and scores."""
    masks, maps = _as_sequence(masks, "masks"), _as_sequence(maps, "maps")
    if len(masks) != len(maps):
        raise ValueError(
            f"Expected as many masks as maps, got {len(masks)} masks and {len(maps)} maps. "
            "Pass one mask per map, in the same order; None stands for the mask of a good image."
        )
    if len(maps) == 0:
        raise ValueError("Expected at least one mask and its map, got none.")
    pairs = zip(masks, maps, strict=True)
    return [_check_pair(i, mask, scores) for i, (mask, scores) in enumerate(pairs)]


def _as_sequence(images, name):
    """The images as something with a length; generators are consumed."""
    if images is None or np.isscalar(images) or getattr(images, "ndim", 1) == 0:
        raise ValueError(
            f"Expected {name} to hold one entry per image, got {images!r}. Pass an array with the "
            "images along the first axis, or a list."
        )
    return images if hasattr(images, "__len__") else list(images)


def _check_pair(i, mask, scores):
    """The mask of one image, bool or None, and its map, finite floats of the same shape."""
    scores = _check_map(i, scores)
    if mask is None:
        return None, scores
    mask = check_mask(i, mask)
    if mask.shape != scores.shape:
        raise ValueError(
            f"masks[{i}] has shape {mask.shape}, but maps[{i}] has shape {scores.shape}; expected "
            "the same (H, W). Score maps have the size of the image: pass the mask in that size, "
            "neither resized nor cropped."
        )
    return (mask if mask.any() else None), scores


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
    # Float32 represents float16 exactly; all other types need float64.
    narrow = scores.dtype.kind == "f" and scores.dtype.itemsize <= 4
    scores = scores.astype(np.float32 if narrow else np.float64, copy=False)
    if not np.isfinite(scores).all():
        raise ValueError(
            f"maps[{i}] holds NaN or infinity; expected finite scores. Compute the map of this "
            "image again, or leave the image out of both lists."
        )
    return scores


def split_pixels(pairs):
    """Scores of all good pixels and of all defect pixels; ValueError unless there are both."""
    dtype = np.result_type(*{scores.dtype for _, scores in pairs})
    n_defect = sum(int(mask.sum()) for mask, _ in pairs if mask is not None)
    n_good = sum(scores.size for _, scores in pairs) - n_defect
    check_both_classes(n_good, n_defect)
    good, defect = np.empty(n_good, dtype), np.empty(n_defect, dtype)
    g = d = 0
    for mask, scores in pairs:
        here = scores.ravel() if mask is None else scores[~mask]
        good[g : g + here.size] = here
        g += here.size
        if mask is not None:
            here = scores[mask]
            defect[d : d + here.size] = here
            d += here.size
    return good, defect


def check_both_classes(n_good, n_defect):
    """Raise ValueError for pixels of only one class: every curve needs both."""
    if n_defect == 0:
        raise ValueError(
            "The metric needs good and defect pixels, but no pixel is marked as defect. Add "
            "images with defects and their masks, nonzero on the defect."
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
    return scores[~defective], scores[defective]
