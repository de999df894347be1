"""Check a data set before anything is learned from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skanomaly.datasets._bunch import split
from skanomaly.datasets._files import GOOD_NAMES
from skanomaly.datasets._folders import find_folder
from skanomaly.datasets._image_checks import (
    check_alike,
    check_kinds,
    check_readable,
    check_usual,
    read_records,
)
from skanomaly.datasets._manifest import read_manifest
from skanomaly.datasets._mask_checks import check_masks
from skanomaly.datasets._masks import MaskFiles
from skanomaly.datasets._report import DatasetReport, Finding

_FOLDER_NEEDED = "masks that belong to no image: pass the folder instead of the loaded data."
_NO_MASKS = "masks: there are none."


class _Part(NamedTuple):
    name: str
    images: list
    names: list
    targets: list
    masks: list | None  # a path, several, an array or None each


def check_dataset(
    data, *, layout="auto", good_names=GOOD_NAMES, mask_suffix="_mask", n_jobs=None, verbose=0
):
    """Look for what spoils a training or flatters a test, before either.

    Parameters
    ----------
    data : Bunch, str or Path
        What :func:`load_folder`, :func:`load_manifest` or :func:`make_inspection` answers; or the
        path of a folder or CSV file, which is read as these do by default. Of a path more can be
        said: which masks are missing, and which belong to no image.
    layout, good_names, mask_suffix
        As in :func:`load_folder`, for paths.
    n_jobs : int or None, default=None
        Threads that read images; two with None.
    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    report : DatasetReport
        Prints as text. `findings` lists named tuples ``(kind, severity, names, message)``; `groups`
        numbers the images by what they show. A severity is "error" where scores would be wrong or
        a fit fails, "warning" for what should be looked at, and "note".

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no data set at the path, or `data` is none. A broken file is a finding and
        raises nothing, but for masks that hold the label, as in KolektorSDD.

    See Also
    --------
    load_folder : Read the folder.
    skanomaly.model_selection.GoodOnlyKFold : Takes `groups`.

    Notes
    -----
    Every image is read once, and kept as a grey thumbnail of 64 x 64 pixels and a few numbers.

    - Duplicates have the same pixels, whatever the file format.
    - Near duplicates show the same thing: another exposure, light from elsewhere as long as the
      details keep their contrast, JPEG, a few per cent cut off or moved, another size. Not found
      are copies that are turned, mirrored or moved further, and where the images of a set are so
      alike that even different things are nearly the same. What counts is how far a pair stands
      out from random pairs of this set; the report states the bar. Each image is compared with
      its five likeliest partners, and the partners of partners are put into one group.
    - Good images stand out by brightness, contrast, sharpness or colour (six robust deviations
      from the median of the good images for training, more where these are few), or by their
      distance to other good images as small grey pictures. That finds wrong parts and broken
      lamps; small defects it does not find.

    Examples
    --------
    >>> from skanomaly.datasets import check_dataset, make_inspection
    >>> data = make_inspection(12, 3, 3, size=64, kind="speckle", random_state=0)
    >>> data.test.images[0] = data.train.images[5]
    >>> report = check_dataset(data)
    >>> report
    speckle: checked 18 images (12 train, 6 test): 1 error, 0 warnings, 0 notes
    error   duplicate: the same pixels in several images (1; 1 train, 1 test)
              2 images: 1 train, 1 test good: leave it in one part, else a score shows memory
                train/good/005, test/good/012
    not checked: masks that belong to no image: pass the folder instead of the loaded data.
    >>> report.findings[0].kind, report.findings[0].names
    ('duplicate', ['train/good/005', 'test/good/012'])
    """
    if n_jobs is not None and n_jobs < 1:
        raise ValueError(f"n_jobs must be None or at least 1, got {n_jobs!r}.")
    if isinstance(data, (str, Path)):
        name, parts, unused = _from_path(Path(data), layout, good_names, mask_suffix)
        not_checked = []
    else:
        name, parts = _from_bunch(data)
        unused, not_checked = [], [_FOLDER_NEEDED]
    parts = [part for part in parts if len(part.images)]
    records = read_records([part[:4] for part in parts], n_jobs, verbose)
    findings = [
        Finding("mask_without_image", "warning", [str(p)], "no image of this name") for p in unused
    ]
    findings += check_readable(records) + check_kinds(records)
    alike, groups = check_alike(records)
    unusual, why_not = check_usual(records)
    findings += alike + unusual
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
    """(name, parts, masks that belong to no image)."""
    if path.suffix.lower() == ".csv":
        found, name = read_manifest(path, good_names=good_names), path.stem
    elif path.is_dir():
        found, name = find_folder(path, layout, good_names, None, mask_suffix), path.resolve().name
    else:
        raise FileNotFoundError(f"{path}: expected a folder of images or a CSV file, found none.")
    found = split(found, 0.2, 0, path)
    test = [*found.good, *found.defective]
    parts = [
        _of_items("train", found.train, False),
        _of_items("validation", found.validation, False),
        _of_items("train_defects", found.train_defects, found.has_masks),
        _of_items("test", test, found.has_masks),
    ]
    return name, parts, found.unused_masks


def _of_items(name, items, has_masks):
    return _Part(
        name,
        [str(item.path) for item in items],
        [item.name for item in items],
        [1 if item.defect == "good" else -1 for item in items],
        [tuple(map(str, item.masks)) or None for item in items] if has_masks else None,
    )


def _from_bunch(data):
    """(name, parts)."""
    if not isinstance(data, Mapping) or not {"train", "test"} <= set(data):
        raise ValueError(
            f"expected a data set, as from load_folder, or the path of one, got "
            f"{type(data).__name__}; images alone can be put into a Bunch with train and test."
        )
    parts = []
    for name in ("train", "validation", "train_defects", "test"):
        part = data.get(name)
        if part is None:
            continue
        images = part["images"]
        names = part.get("names", [f"{i:03d}" for i in range(len(images))])
        targets = part.get("target", np.ones(len(images), dtype=int))
        masks = part.get("masks")
        if masks is not None:
            masks = masks.masks if isinstance(masks, MaskFiles) else list(masks)
        parts.append(_Part(name, images, names, targets, masks))
    return data.get("name", "data"), parts
