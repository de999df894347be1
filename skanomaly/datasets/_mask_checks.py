"""Checks of masks: there, readable, of the right size, black and white, and of the right image."""

import numpy as np

from skanomaly._images import ImageError, read_image
from skanomaly.datasets._masks import is_defect, is_grey_scale
from skanomaly.datasets._report import Finding

_SOFT_EDGES = 0.01  # share of pixels that JPEG or resizing may leave between black and white


def check_masks(records, masks):
    """Findings on the masks of some images: one file's path, several or an array each, or None."""
    findings = []
    for record, mask in zip(records, masks, strict=True):
        if mask is None:
            if record.target == -1:
                text = "others have one; add it, or load with missing_masks='drop' or 'ignore'"
                findings.append(Finding("defect_without_mask", "error", [record.place], text))
            continue
        findings += _check_one(record, [mask] if isinstance(mask, str) else mask)
    return findings


def _check_one(record, masks):
    """Findings on the masks of one image, which are united."""
    found, shows_defect = [], []
    masks = [masks] if isinstance(masks, np.ndarray) else masks
    for mask in masks:
        name = mask if isinstance(mask, str) else f"mask of {record.place}"
        try:
            values = read_image(mask) if isinstance(mask, str) else _as_image(mask)
        except ImageError as error:
            return [Finding("unreadable_mask", "error", [name], str(error))]
        frame = record.facts.frame if record.facts else values.shape[:2]
        if values.shape[:2] != frame:
            text = (
                f"{values.shape[0]} x {values.shape[1]} pixels (height x width), but the image is "
                f"{frame[0]} x {frame[1]}"
            )
            return [Finding("mask_size", "error", [name, record.place], text)]
        defect = is_defect(values)
        shows_defect.append(defect.any())
        if defect.all():
            text = "there is no black pixel in it"
            found.append(Finding("full_mask", "warning", [name, record.place], text))
        found += _check_values(values, name)
    if record.target == -1 and not any(shows_defect):
        text = "the image is called defective, but nothing is marked"
        found.append(Finding("empty_mask", "error", [record.place], text))
    if record.target == 1 and any(shows_defect):
        text = "the image is called good, but a defect is marked"
        found.append(Finding("mask_of_good_image", "error", [record.place], text))
    return found


def _as_image(mask):
    """(H, W, 1) of an array in memory; True is white."""
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ImageError(f"expected a mask of shape (H, W), got {mask.shape}")
    return (mask * np.uint8(255) if mask.dtype == bool else mask)[:, :, None]


def _check_values(values, name):
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) <= 2:
        return []
    if not is_grey_scale(values):
        text = "values are read as numbers of classes, and all but 0 and black are a defect"
        return [Finding("mask_not_binary", "note", [name], text)]
    share = counts[1:-1].sum() / counts.sum()
    text = (
        f"{len(levels)} grey values, {100 * share:.2g} % of the pixels between the lowest and the "
        f"highest; a defect is what is above {levels[-1] / 2:g}"
    )
    severity = "warning" if share > _SOFT_EDGES else "note"
    return [Finding("mask_not_binary", severity, [name], text)]
