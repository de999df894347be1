"""Files of scores: one for each partition, all of one schema, each complete or not there."""

import re
import shutil
import zipfile
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.lib.format import write_array

from skanomaly.io import atomic_file

MAPS = "_maps"  # readers of tables pass over names that begin so
_PART = re.compile(r"(\d{6,})\.parquet")
_MODEL = b"skanomaly_model"  # among a file's metadata: the digest of what has scored
_FOLDER = b"skanomaly_folder"  # and the folder that relative paths are in


class Row(NamedTuple):
    """A row of the table: what is found in an image. None is null."""

    image: str
    score: float | None = None  # below 0: defect
    is_defect: bool | None = None
    n_regions: int | None = None
    area: int | None = None  # of the largest region, as all that follows
    top: int | None = None
    left: int | None = None
    bottom: int | None = None
    right: int | None = None
    error: str | None = None


BOX = ("area", "top", "left", "bottom", "right")


def part_file(folder, number):
    return folder / f"{number:06d}.parquet"


def maps_file(folder, number):
    return folder / MAPS / f"{number:06d}.npz"


def write_part(path, rows, model, folder):
    """Write rows, the digest of the model that they are of, and the folder of relative paths."""
    import pyarrow
    from pyarrow import parquet

    records = [row._replace(image=as_text(row.image))._asdict() for row in rows]
    table = pyarrow.Table.from_pylist(records, schema=_schema(model, folder))
    with atomic_file(path) as unfinished:
        parquet.write_table(table, unfinished)


def read_part(path, part, model):
    """Counts as from :func:`counts` of a file that is there, or None.

    ValueError unless it is of these images and this model. What cannot be read counts as absent.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException):
        return None
    way_out = "choose another folder, or delete it to score anew"
    metadata = table.schema.metadata or {}
    if table.schema.names != list(Row._fields) or not {_MODEL, _FOLDER} <= metadata.keys():
        raise ValueError(f"{path}: expected a file written by score_files, got another; {way_out}")
    if metadata[_MODEL] != model.encode():
        raise ValueError(f"{path}: holds scores by another estimator; {way_out}")
    is_elsewhere = part.has_relative and metadata[_FOLDER] != as_text(part.folder).encode()
    if is_elsewhere or table["image"].to_pylist() != list(map(as_text, part.names)):
        raise ValueError(
            f"{path}: holds scores of other images; pass the same ones in the same order with the "
            f"same partition_size, relative paths from the same folder, or {way_out}"
        )
    return _counts(table["is_defect"].to_pylist(), table["error"].to_pylist())


def counts(rows):
    """Numbers of images, defects and errors among some rows, as an array."""
    return _counts([row.is_defect for row in rows], [row.error for row in rows])


def _counts(is_defect, errors):
    return np.array([len(errors), is_defect.count(True), len(errors) - errors.count(None)])


def other_parts(folder, n_parts):
    """Names of a folder's files of partitions beyond a number of them."""
    numbers = map(_PART.fullmatch, (path.name for path in folder.iterdir()))
    return sorted(one[0] for one in numbers if one and int(one[1]) >= n_parts)


def remove_parts(folder):
    """Delete all files of a job, the tables first, without which maps are of no use."""
    for name in other_parts(folder, 0):
        (folder / name).unlink()
    shutil.rmtree(folder / MAPS, ignore_errors=True)


@contextmanager
def open_maps(path):
    """Context that gives a function (number, map), which writes a map to an archive."""
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as unfinished:
        with zipfile.ZipFile(unfinished, "w") as archive:

            def write(number, score_map):
                with archive.open(f"{number}.npy", "w", force_zip64=True) as file:
                    write_array(file, np.ascontiguousarray(score_map), allow_pickle=False)

            yield write


def as_text(name):
    """A name whose bytes that are not UTF-8 are escapes."""
    return name.encode(errors="backslashreplace").decode()


def _schema(model, folder):
    """The same for every file: a column without a value is not of another type than one with."""
    import pyarrow

    whole = dict.fromkeys(("n_regions", *BOX), pyarrow.int64())
    kinds = {
        "image": pyarrow.string(),
        "score": pyarrow.float64(),
        "is_defect": pyarrow.bool_(),
        **whole,
        "error": pyarrow.string(),
    }
    metadata = {_MODEL: model.encode(), _FOLDER: as_text(folder).encode()}
    return pyarrow.schema(list(kinds.items()), metadata=metadata)
