"""Read a table of images with their labels, masks and parts, one row per image."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skanomaly.datasets._bunch import check_options, make_bunch, select, split
from skanomaly.datasets._listing import GOOD_NAMES, Found, Item
from skanomaly.datasets._tables import FileFinder, read_table

_PARTS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
_YES_OR_NO = ("true", "false", "yes", "no", "y", "n")


def load_manifest(
    path: str | Path,
    *,
    root: str | Path | None = None,
    only: Mapping[str, str] | None = None,
    good_names: Sequence[str] = GOOD_NAMES,
    categories: Sequence[str] | None = None,
    missing_masks: str = "error",
    test_size: float = 0.2,
    random_state: int | np.random.RandomState | None = 0,
) -> Bunch:
    """Load the images, labels and masks that are listed in a CSV file.

    Parameters
    ----------
    path : str or Path
        A file of values separated by commas, semicolons, tabs or ``|``, in UTF-8, UTF-16 or
        Windows-1252. Its first line names the columns, in any order:

        - `image`: path of the image, relative to `root` or absolute. It may be written as on
          Windows, with backslashes and in any capitalization;
        - `label`: one of `good_names`, or the kind of defect; case does not matter. Numbers, yes
          and no are rejected, because 1 may mean good or defective, unless `good_names` contains
          the one that means good;
        - `mask`, optional: path of the mask, or empty;
        - `split`, optional: "train", "test", "validation" or "val".

        Other columns are ignored.
    root : str, Path or None, default=None
        The folder to which paths are relative; None: the folder of the CSV file.
    only : dict of str to str, or None, default=None
        Load only rows with these values, as ``{"object": "candle"}`` in the tables of VisA.
    good_names : sequence of str, default=("good", "ok", "normal")
        Labels of good images, in any capitalization.
    categories : sequence of str or None, default=None
        The kinds of defects to load; None: all of them.
    missing_masks : {"error", "drop", "ignore"}, default="error"
        How defective images without a mask are handled if others have one: raise an error, leave
        these images out, or load all images without masks.
    test_size : float, default=0.2
        Fraction of the good images that are held out for testing if there is no column `split`.
    random_state : int, RandomState instance or None, default=0
        Draws the images that are held out.

    Returns
    -------
    data : Bunch
        As returned by :func:`load_folder`, named after the CSV file. Defective images with the
        split "train" are in `train_defects`, never in `train`; defective images with the split
        "validation" raise an error.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or images or masks listed in it do not exist.
    ValueError
        If a column is missing, a row is invalid, an image is listed twice, or a mask is missing.

    See Also
    --------
    load_folder : The same for folders.
    check_dataset : Find problems of the images.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from skanomaly.datasets import load_manifest
    >>> with TemporaryDirectory() as root:
    ...     for name in ["1.png", "2.png", "3.png"]:
    ...         Image.new("L", (32, 24)).save(Path(root, name))
    ...     rows = ["image,label,split", "1.png,good,train", "2.png,good,test", "3.png,dent,test"]
    ...     _ = Path(root, "parts.csv").write_text("\\n".join(rows))
    ...     data = load_manifest(Path(root, "parts.csv"))
    >>> data.train.names, data.test.names, data.test.target
    (['good/1.png'], ['good/2.png', 'dent/3.png'], array([ 1, -1]))
    """
    check_options(missing_masks, test_size)
    path = Path(path)
    found = read_manifest(path, root=root, only=only, good_names=good_names)
    found = split(select(found, categories, path), test_size, random_state, path)
    return make_bunch(path.stem, found, missing_masks)


def read_manifest(path, *, root=None, only=None, good_names=GOOD_NAMES):
    """The images listed in a CSV file."""
    table = read_table(path)
    rows = _filter_rows(table.rows, only, table.columns, path)
    files = FileFinder(path.parent if root is None else Path(root), table.encoding)
    labels = _Labels(good_names)
    parts = {"train": [], "test": [], "validation": []}
    seen = {}
    for place, row in rows:
        item, part = _read_row(row, files, labels.read(row, place), place)
        same = seen.setdefault(os.path.normpath(item.path), place)
        if same is not place:
            raise ValueError(f"{place}: {item.path} is already in {same}; list it once.")
        if part == "validation" and item.defect != "good":
            raise ValueError(
                f"{place}: images for validation must be good, got label {row['label']!r}; "
                "use the split test for defective images."
            )
        parts[part or "train"].append(item)
    files.check()
    good, defects = _by_class(parts["test"])
    train, train_defects = _by_class(parts["train"])
    if "split" not in table.columns:
        good, defects, train_defects = None, train_defects, []
    return Found(
        train=train,
        good=good,
        defective=defects,
        validation=parts["validation"],
        train_defects=train_defects,
        has_masks=any(item.masks for items in parts.values() for item in items),
        advice="list them in the column mask, ",
        notes=labels.notes(),
    )


def _filter_rows(rows, only, columns, path):
    """The rows with the values ``only``; ValueError if there are none."""
    for column, value in (only or {}).items():
        if column not in columns:
            raise ValueError(f"{path}: there is no column {column!r}; there are {columns}.")
        values = sorted({row[column] for _, row in rows})
        rows = [(place, row) for place, row in rows if row[column] == value]
        if not rows:
            raise ValueError(f"{path}: there is no row with {column} {value!r}, only {values}.")
    if not rows:
        raise ValueError(f"{path}: expected one row per image, found only the first line.")
    return rows


def _read_row(row, files, label, place):
    """(item, its part or None) of a row."""
    part = row.get("split", "").lower()
    if "split" in row and part not in _PARTS:
        raise ValueError(f"{place}: split must be one of {list(_PARTS)}, got {row['split']!r}.")
    path = files.find(row["image"], place)
    mask = files.find(row["mask"], place) if row.get("mask") else None
    if mask == path:
        raise ValueError(f"{place}: expected an image and its mask, got {path} as both.")
    folder = files.root if path.is_relative_to(files.root) else path.parent
    return Item(path, folder, label, () if mask is None else (mask,)), _PARTS.get(part)


class _Labels:
    """The labels of a table: "good", or the kind of defect in the first of its spellings."""

    def __init__(self, good_names):
        good_names = [good_names] if isinstance(good_names, str) else good_names
        self.good_names = [str(name) for name in good_names]
        self.good = set(map(_same_spelling, self.good_names))
        self.may_be_numbers = any(map(_is_unclear, self.good_names))
        self.spellings = {}  # each kind of defect -> its spellings

    def read(self, row, place):
        label = row["label"]
        if not row["image"] or not label:
            raise ValueError(f"{place}: expected an image and its label, got {row}.")
        if _is_unclear(label) and not self.may_be_numbers:
            raise ValueError(
                f"{place}: expected a word as label, got {label!r}, which may mean good or "
                f"defective. Write {self.good_names[0]!r} or the kind of defect, or pass "
                f"good_names=['{label}'] if it means good."
            )
        key = _same_spelling(label)
        if key in self.good:
            return "good"
        spellings = self.spellings.setdefault(key, [])
        if label not in spellings:
            spellings.append(label)
        return spellings[0]

    def notes(self):
        several = [" = ".join(map(repr, found)) for found in self.spellings.values() if found[1:]]
        return (f"The same kind in several spellings: {', '.join(several)}.",) * bool(several)


def _same_spelling(label):
    """The same for labels that differ in case, spaces or the digits of a number alone."""
    number = _as_number(label)
    if number is not None:
        return f"{number:g}"
    return " ".join(unicodedata.normalize("NFC", label).casefold().split())


def _is_unclear(label):
    """Whether a label may mean good or defective: a number, or yes or no."""
    return _as_number(label) is not None or _same_spelling(label) in _YES_OR_NO


def _as_number(label):
    try:
        return float(label)
    except ValueError:
        return None


def _by_class(items):
    """(good, defective); defects are sorted by kind, kinds in the order in which they appear."""
    kinds = list(dict.fromkeys(item.defect for item in items))
    defective = sorted(
        (i for i in items if i.defect != "good"), key=lambda i: kinds.index(i.defect)
    )
    return [item for item in items if item.defect == "good"], defective
