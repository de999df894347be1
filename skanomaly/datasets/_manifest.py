"""Read a table of images: one row an image, with its label, mask and part."""

import csv
from pathlib import Path

from skanomaly.datasets._bunch import check_options, make_bunch, select, split
from skanomaly.datasets._files import GOOD_NAMES, Found, Item

_PARTS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}


def load_manifest(
    path,
    *,
    root=None,
    only=None,
    good_names=GOOD_NAMES,
    categories=None,
    missing_masks="error",
    test_size=0.2,
    random_state=0,
):
    """Find the images, labels and masks that a CSV file lists.

    Parameters
    ----------
    path : str or Path
        A file of values separated by commas, in UTF-8, whose first line names the columns, in any
        order:

        - `image`: the image's file, relative to `root` or absolute;
        - `label`: one of `good_names`, or the kind of defect. Numbers are refused, as 1 means good
          here and defective there, unless `good_names` holds the number that means good;
        - `mask`, may be absent: the mask's file, or nothing;
        - `split`, may be absent: "train", "test", or "validation" or "val".

        Other columns are passed over.
    root : str, Path or None, default=None
        The folder that files are relative to; with None that of the CSV file.
    only : dict of str to str, or None, default=None
        Takes only rows with these values, as ``{"object": "candle"}`` in the tables of VisA.
    good_names : sequence of str, default=("good", "ok", "normal")
        Labels of good images, in small or capital letters.
    categories : sequence of str or None, default=None
        The kinds of defects to load; all of them with None.
    missing_masks : {"error", "drop", "ignore"}, default="error"
        What to do with a defective image without mask where others have one: raise an error,
        leave the image out, or load the images without any masks.
    test_size : float, default=0.2
        Share of the good images held out for testing where there is no column `split`.
    random_state : int, RandomState instance or None, default=0
        Draws the images held out.

    Returns
    -------
    data : Bunch
        As from :func:`load_folder`, called by the name of the CSV file. Defective images whose
        split is "train" are in `train_defects`, never in `train`; those of the validation part are
        refused.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or an image or mask that it lists does not exist.
    ValueError
        If a column is missing, a row cannot be understood, an image is listed twice, or a mask is
        missing.

    See Also
    --------
    load_folder : The same from folders.
    check_dataset : What may be wrong with the images.

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
    """The images that a CSV file lists."""
    root = path.parent if root is None else Path(root)
    good_names = [good_names] if isinstance(good_names, str) else good_names
    good_names = [str(name).lower() for name in good_names]
    columns, rows = _read_rows(path)
    rows = _chosen(rows, only, columns, path)
    parts = {"train": [], "test": [], "validation": []}
    seen = {}
    for place, row in rows:
        item, part = _read_row(row, root, good_names, place)
        if item.path in seen:
            raise ValueError(f"{place}: {item.path} is already in {seen[item.path]}; list it once.")
        seen[item.path] = place
        if part == "validation" and item.defect != "good":
            raise ValueError(
                f"{place}: images for validation must be good, got label {row['label']!r}; "
                "its split can be test."
            )
        parts[part or "train"].append(item)
    good, defects = _by_class(parts["test"])
    train, train_defects = _by_class(parts["train"])
    if "split" not in columns:
        good, defects, train_defects = None, train_defects, []
    return Found(
        train=train,
        good=good,
        defective=defects,
        validation=parts["validation"],
        train_defects=train_defects,
        has_masks=any(item.masks for items in parts.values() for item in items),
        way_out="name them in column mask, ",
    )


def _read_rows(path):
    """(names of the columns, (place, {column: value}) of each row that is not empty)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a CSV file, there is none.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a CSV file in UTF-8 ({error}); save it so.") from error
    reader = csv.DictReader(lines, skipinitialspace=True)
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    missing = [name for name in ("image", "label") if name not in columns]
    if missing:
        raise ValueError(
            f"{path}: expected a first line with the columns image, label and, where known, "
            f"mask and split, separated by commas; there is no {' and no '.join(missing)} in "
            f"{columns}."
        )
    rows = []
    for row in reader:
        place = f"{path}, line {reader.line_num}"
        if None in row:
            n_values = len(columns) + len(row[None])
            raise ValueError(
                f"{place}: expected {len(columns)} values, got {n_values}; put values that hold a "
                "comma in double quotes."
            )
        rows.append((place, {name: (value or "").strip() for name, value in row.items()}))
    return columns, rows


def _chosen(rows, only, columns, path):
    for column, value in (only or {}).items():
        if column not in columns:
            raise ValueError(f"{path}: no column {column!r} to choose by; there are {columns}.")
        values = sorted({row[column] for _, row in rows})
        rows = [(place, row) for place, row in rows if row[column] == value]
        if not rows:
            raise ValueError(f"{path}: no row with {column} {value!r}; there are {values}.")
    if not rows:
        raise ValueError(f"{path}: expected a row for each image, found only the first line.")
    return rows


def _read_row(row, root, good_names, place):
    """(item, its part or None) of one row."""
    if not row["image"] or not row["label"]:
        raise ValueError(f"{place}: expected an image and its label, got {row}.")
    label = row["label"]
    is_number = label.lstrip("+-").replace(".", "", 1).isdigit()
    if is_number and not any(name.lstrip("+-").isdigit() for name in good_names):
        raise ValueError(
            f"{place}: labels are words, got {label!r}, which may mean good or defective. Write "
            f"{good_names[0]!r} or the kind of defect, or pass good_names=['{label}'] if it means "
            "good."
        )
    part = row.get("split", "").lower()
    if "split" in row and part not in _PARTS:
        raise ValueError(f"{place}: split must be one of {list(_PARTS)}, got {row['split']!r}.")
    path, mask = root / row["image"], row.get("mask")
    for file in [path, *([root / mask] if mask else [])]:
        if not file.is_file():
            raise FileNotFoundError(f"{place}: {file} does not exist; correct it or pass root.")
    name = "good" if label.lower() in good_names else label
    folder = root if path.is_relative_to(root) else path.parent
    return Item(path, folder, name, (root / mask,) if mask else ()), _PARTS.get(part)


def _by_class(items):
    """(good, defective); the defects by kind, in the order of the kinds' first rows."""
    kinds = list(dict.fromkeys(item.defect for item in items))
    defective = sorted(
        (i for i in items if i.defect != "good"), key=lambda i: kinds.index(i.defect)
    )
    return [item for item in items if item.defect == "good"], defective
