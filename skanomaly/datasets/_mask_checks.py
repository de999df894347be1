"""Checks of masks: missing, unreadable, of wrong size, not binary, or contradicting the label."""

import numpy as np

from skanomaly.datasets._findings import Finding
from skanomaly.datasets._masks import defect_pixels, is_gray_scale
from skanomaly.images import read_image
from skanomaly.utils.targets import check_mask

_SOFT_EDGES = 0.01  # fraction of pixels that JPEG or resizing may leave between black and white


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
    findings = []
    for i, (record, mask) in enumerate(zip(records, masks, strict=True)):
        if mask is None:
            if record.target == -1:
                text = "others have one; add it, or load with missing_masks='drop' or 'ignore'"
                findings.append(Finding("defect_without_mask", "error", [record.place], text))
            continue
        findings += _check_one(i, record, mask if isinstance(mask, tuple) else (mask,))
    return findings


def _check_one(i, record, masks):
    """Findings on the masks of the image numbered i, whose union is its mask."""
    findings, shows_defect = [], False
    for mask in masks:
        name = mask if isinstance(mask, str) else f"mask of {record.place}"
        try:
            values, defect = _read(i, mask)
        except ValueError as error:  # an ImageError, too
            return [Finding("unreadable_mask", "error", [name], str(error))]
        frame = record.facts.frame if record.facts else defect.shape
        if defect.shape != frame:
            text = (
                f"{defect.shape[0]} x {defect.shape[1]} pixels (height x width), but the image is "
                f"{frame[0]} x {frame[1]}"
            )
            return [Finding("mask_size", "error", [name, record.place], text)]
        shows_defect |= defect.any()
        if defect.all():
            text = "there is no black pixel in it"
            findings.append(Finding("full_mask", "warning", [name, record.place], text))
        findings += _check_values(values, name, is_file=isinstance(mask, str))
    if record.target == -1 and not shows_defect:
        text = "the image is labeled defective, but no pixel is marked"
        findings.append(Finding("empty_mask", "error", [record.place], text))
    if record.target == 1 and shows_defect:
        text = "the image is labeled good, but a defect is marked"
        findings.append(Finding("mask_of_good_image", "error", [record.place], text))
    return findings


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
