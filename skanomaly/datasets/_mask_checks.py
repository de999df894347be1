"""Checks of masks: missing, unreadable, of wrong size, not binary, or contradicting the label."""

import hashlib

import numpy as np

from skanomaly.datasets._findings import Finding
from skanomaly.datasets._masks import defect_pixels, is_gray_scale
from skanomaly.images import read_image
from skanomaly.utils.targets import check_mask

_SOFT_EDGES = 0.01  # fraction of pixels that JPEG or resizing may leave between black and white
# Fraction of their images that most masks, or a single one, mark at most if they are not inverted.
_LARGE_SHARE, _UNUSUAL_SHARE = 0.5, 0.8


def check_masks(records, masks):
    """Findings on the masks of some images.

    Parameters
    ----------
    records : list of Record
    masks : list
        For each record a path, a tuple of paths, an array (H, W), or None.

    Returns
    -------
    list of Finding
    """
    findings, shares, digests = [], {}, {}
    for i, (record, mask) in enumerate(zip(records, masks, strict=True)):
        if mask is None:
            if record.target == -1:
                text = "others have one; add it, or load with missing_masks='drop' or 'ignore'"
                findings.append(Finding("defect_without_mask", "error", [record.place], text))
            continue
        found, defect = _check_one(i, record, mask if isinstance(mask, tuple) else (mask,))
        findings += found
        if defect is not None and record.target == -1 and defect.any():
            shares[record.place] = defect.mean()
            if not _is_box(defect):  # equal boxes are drawn where defects have a usual place
                digest = hashlib.blake2b(np.packbits(defect), digest_size=16).digest()
                digests.setdefault((defect.shape, digest), []).append(record.place)
    return findings + _check_inverted(shares) + _check_repeated(digests)


def _check_inverted(shares):
    """Finding on masks that mark most of their image, but not all of it."""
    is_usual = len(shares) > 0 and np.median(list(shares.values())) > _LARGE_SHARE
    limit = _LARGE_SHARE if is_usual else _UNUSUAL_SHARE
    names = [name for name, share in shares.items() if limit < share < 1]
    if not names:
        return []
    text = (
        f"{len(names)} of {len(shares)} masks mark {min(shares[n] for n in names):.0%} to "
        f"{max(shares[n] for n in names):.0%} of their image. A defect is white on black: if these "
        "are drawn black on white, invert the files"
    )
    return [Finding("inverted_mask", "error" if is_usual else "warning", names, text)]


def _check_repeated(digests):
    """Findings on masks that are equal, as copies under wrong names are."""
    text = "is one of them the mask of another image?"
    return [Finding("repeated_mask", "note", same, text) for same in digests.values() if same[1:]]


def _is_box(defect):
    """Whether the defect is a rectangle along the axes."""
    rows, columns = np.flatnonzero(defect.any(axis=1)), np.flatnonzero(defect.any(axis=0))
    return defect[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def _check_one(i, record, masks):
    """(findings on the masks of the image numbered i, their union or None)."""
    findings, union = [], None
    for mask in masks:
        name = mask if isinstance(mask, str) else f"mask of {record.place}"
        try:
            values, defect = _read(i, mask)
        except ValueError as error:  # an ImageError, too
            return [Finding("unreadable_mask", "error", [name], str(error))], None
        frame = record.facts.frame if record.facts else defect.shape
        if defect.shape != frame:
            text = (
                f"{defect.shape[0]} x {defect.shape[1]} pixels (height x width), but the image is "
                f"{frame[0]} x {frame[1]}"
            )
            return [Finding("mask_size", "error", [name, record.place], text)], None
        union = defect if union is None else union | defect
        if defect.all():
            text = "there is no black pixel in it"
            findings.append(Finding("full_mask", "warning", [name, record.place], text))
        findings += _check_values(values, name, is_file=isinstance(mask, str))
    shows_defect = union is not None and union.any()
    if record.target == -1 and not shows_defect:
        text = "the image is labeled defective, but no pixel is marked"
        findings.append(Finding("empty_mask", "error", [record.place], text))
    if record.target == 1 and shows_defect:
        text = "the image is labeled good, but a defect is marked"
        findings.append(Finding("mask_of_good_image", "error", [record.place], text))
    return findings, union


def _read(i, mask):
    """(values (H, W, C), defect (H, W) bool) of a mask file, or of an array that a user passed."""
    if isinstance(mask, str):
        values = read_image(mask)
        return values, defect_pixels(values)
    return np.atleast_3d(mask), check_mask(i, mask)


def _check_values(values, name, is_file):
    """Findings on a mask with other values than two."""
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) <= 2:
        return []
    if not is_gray_scale(values):
        text = "the values are class numbers or colors; everything except 0 or black is a defect"
        return [Finding("mask_not_binary", "note", [name], text)]
    fraction = counts[1:-1].sum() / counts.sum()
    text = (
        f"{len(levels)} gray values, {100 * fraction:.2g} % of the pixels between the lowest and "
        f"the highest; a defect is what is above {levels[-1] / 2 if is_file else 0:g}"
    )
    severity = "warning" if fraction > _SOFT_EDGES else "note"
    return [Finding("mask_not_binary", severity, [name], text)]
