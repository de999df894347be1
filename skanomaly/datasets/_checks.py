"""Check a data set before it is used for training and testing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skanomaly.datasets._bunch import split
from skanomaly.datasets._findings import DatasetReport, Finding
from skanomaly.datasets._folders import find_folder
from skanomaly.datasets._image_checks import (
    check_duplicates,
    check_kinds,
    check_readable,
    check_usual,
    read_records,
)
from skanomaly.datasets._listing import GOOD_NAMES
from skanomaly.datasets._manifest import read_manifest
from skanomaly.datasets._mask_checks import check_masks
from skanomaly.datasets._mask_files import report_mask_names
from skanomaly.datasets._masks import MaskFiles
from skanomaly.datasets._not_read import report_not_read
from skanomaly.utils.targets import read_labels
from skanomaly.utils.threads import count_threads

_FOLDER_NEEDED = "masks without an image: pass the folder instead of the loaded data."
_NO_MASKS = "masks: there are none."


class _Part(NamedTuple):
    """A part of a data set, such as "train"; all lists have an entry per image."""

    name: str
    images: Any
    names: list
    targets: Any  # +1 good, -1 defect
    masks: list | None  # a path, a tuple of paths, an array or None each


def check_dataset(
    data: Any,
    *,
    layout: str = "auto",
    good_names: Sequence[str] = GOOD_NAMES,
    mask_suffix: str = "_mask",
    n_jobs: int | None = None,
    verbose: int = 0,
) -> DatasetReport:
    """Find problems of a data set that would harm training or bias test scores.

    Parameters
    ----------
    data : Bunch, str or Path
        The result of :func:`load_folder`, :func:`load_manifest` or :func:`make_inspection`; or the
        path of a folder or CSV file, which is read as these do by default. Only for a path, missing
        masks, masks without an image and files that are not read are found.
    layout, good_names, mask_suffix
        As in :func:`load_folder`, for paths.
    n_jobs : int or None, default=None
        Number of threads that read images; -1 for all processors. None means two.
    verbose : int, default=0
        If positive, show a progress bar.

    Returns
    -------
    report : DatasetReport
        Prints as text. `findings` lists named tuples ``(kind, severity, names, message)``; `groups`
        has the same number for images that show the same object. The severity is "error" if scores
        would be wrong or a fit would fail, "warning" if the images should be inspected, or "note".

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If there is no data set at the path, `data` is not a data set, or its targets are not +1
        (good) and -1 (defect). An unreadable file is a finding and raises no error, except for
        masks that contain the labels, as in KolektorSDD.

    See Also
    --------
    load_folder : Load the folder.
    skanomaly.model_selection.GoodOnlyKFold : Splits by `groups`.

    Notes
    -----
    Every image is read once; a gray thumbnail of 64 x 64 pixels and a few numbers are kept.

    - Duplicates have the same pixels, in any file format. Training images that are found again
      among the test images are leakage: test scores are then optimistic.
    - Near duplicates show the same object with another exposure, other light (as long as details
      keep their contrast), JPEG compression, a few percent cropped or shifted, or another size.
      Rotated, mirrored and further shifted copies are not found, nor duplicates in a set of images
      so similar that different objects look nearly the same. The similarity of a pair is compared
      with that of random pairs of the set; the report states the limit. Each image is compared
      with its five most likely partners, and linked images form a group.
    - Unusual good images differ in brightness, contrast, sharpness or color by six robust
      deviations from the median of the good training images (more if there are few of them), or
      are far from the other good images as small gray thumbnails. This finds wrong parts and broken
      lamps, but not small defects.

    Examples
    --------
    >>> from skanomaly.datasets import check_dataset, make_inspection
    >>> data = make_inspection(12, 3, 3, size=64, kind="speckle", random_state=0)
    >>> data.test.images[0] = data.train.images[5]
    >>> report = check_dataset(data)
    >>> report
    speckle: checked 18 images (12 train, 6 test): 1 error, 0 warnings, 0 notes
    error   duplicate: the same pixels in several images (1; 1 train, 1 test)
              2 images: 1 train, 1 test good: keep it in one part only, else it is leakage
                train/good/005, test/good/012
    not checked: masks without an image: pass the folder instead of the loaded data.
    >>> report.findings[0].kind, report.findings[0].names
    ('duplicate', ['train/good/005', 'test/good/012'])
    """
    if n_jobs is not None and n_jobs != -1 and n_jobs < 1:
        raise ValueError(f"n_jobs must be None, -1 or at least 1, got {n_jobs!r}.")
    if isinstance(data, (str, Path)):
        name, parts, found = _from_path(Path(data), layout, good_names, mask_suffix)
        unused, not_read, not_checked = found.unused_masks, found.not_read, []
        kinds = [item.defect for item in found.items]
    else:
        name, parts = _from_bunch(data)
        unused, not_read, kinds, not_checked = [], [], [], [_FOLDER_NEEDED]
    parts = [part for part in parts if len(part.images)]
    records = read_records([part[:4] for part in parts], count_threads(n_jobs, 2), verbose)
    findings = [
        Finding("mask_without_image", "warning", [str(p)], "there is no image of this name")
        for p in unused
    ]
    findings += report_mask_names(list(dict.fromkeys(kinds)))
    findings += report_not_read(not_read) + check_readable(records) + check_kinds(records)
    duplicates, groups = check_duplicates(records)
    unusual, why_not = check_usual(records)
    findings += duplicates + unusual
    ends = np.cumsum([len(part.images) for part in parts])
    by_part = {}
    for part, end in zip(parts, ends, strict=True):
        own = slice(end - len(part.images), end)
        by_part[part.name] = groups[own]
        if part.masks is not None:
            findings += check_masks(records[own], part.masks)
    if all(part.masks is None for part in parts):
        not_checked = [*(text for text in not_checked if text != _FOLDER_NEEDED), _NO_MASKS]
    sizes = {part.name: len(part.images) for part in parts}
    return DatasetReport(name, findings, sizes, by_part, not_checked + why_not)


def _from_path(path, layout, good_names, mask_suffix):
    """(name, parts, what was found)."""
    if path.is_dir():
        found, name = find_folder(path, layout, good_names, None, mask_suffix), path.resolve().name
    elif path.is_file():
        found, name = read_manifest(path, good_names=good_names), path.stem
    else:
        raise FileNotFoundError(f"{path}: expected a folder of images or a CSV file, found none.")
    found = split(found, 0.2, 0, path)
    test = [*found.good, *found.defective]
    parts = [
        _of_items("train", found.train, any(item.masks for item in found.train)),
        _of_items("validation", found.validation, False),
        _of_items("train_defects", found.train_defects, found.has_masks),
        _of_items("test", test, found.has_masks),
    ]
    return name, parts, found


def _of_items(name, items, has_masks):
    """A part from the items of a reader."""
    return _Part(
        name,
        [str(item.path) for item in items],
        [item.name for item in items],
        [1 if item.defect == "good" else -1 for item in items],
        [tuple(map(str, item.masks)) or None for item in items] if has_masks else None,
    )


def _from_bunch(data):
    """(name, parts) of a data set in memory."""
    if not isinstance(data, Mapping) or not {"train", "test"} <= set(data):
        raise ValueError(
            f"expected a data set, as from load_folder, or the path of one, got "
            f"{type(data).__name__}; put images into a Bunch with the parts train and test."
        )
    parts = []
    for name in ("train", "validation", "train_defects", "test"):
        part = data.get(name)
        if part is None:
            continue
        images = part["images"]
        names = part.get("names", [f"{i:03d}" for i in range(len(images))])
        targets = read_labels(part.get("target"), len(images))
        if targets is None:
            targets = np.ones(len(images), dtype=int)
        masks = part.get("masks")
        if masks is not None:
            masks = masks.masks if isinstance(masks, MaskFiles) else list(masks)
        parts.append(_Part(name, images, names, targets, masks))
    return data.get("name", "data"), parts
