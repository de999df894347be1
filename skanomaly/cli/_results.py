"""The outputs of inspect beside its report: a folder with scores and heat maps, JSON."""

import csv
import json
import re
import shutil
import sys
import tempfile
import textwrap
import unicodedata
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

from skanomaly.cli._model_files import count_seen, load_data, seen_images
from skanomaly.cli._predictions import color_limits
from skanomaly.images import save_score_map
from skanomaly.io import cell_text, name_disk_errors, text_cell
from skanomaly.utils.unwrapping import check_nearest_good, outermost

SCORES_FILE = "scores.csv"
COLUMNS = ["name", "score", "verdict", "heat_map", "error"]
_FORMER_COLUMNS = COLUMNS[:4]  # of earlier versions
N_PEAKS = 3  # hot spots per image that a report explains, at most
SPOOL_BYTES = 1 << 20  # of JSON that is held in memory

_NAME_BYTES = 200  # of a heat map's name, which leaves room for a number
# What Windows allows in no name, or as no name; a lone surrogate is a byte that is not UTF-8.
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*\ud800-\udfff]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


class FolderResults(AbstractContextManager):
    """scores.csv, and a heat map of each image; written as they come."""

    def __init__(self, folder, model, images, has_maps):
        self.folder = folder
        self.limits = dict(zip(("vmin", "vmax"), color_limits(model), strict=True))
        self.names = iter(_heat_map_names(images) if has_maps else [""] * len(images))
        self.file = open(
            folder / SCORES_FILE, "w", newline="", encoding="utf-8", errors="backslashreplace"
        )
        self.rows = csv.writer(self.file)
        self.rows.writerow(COLUMNS)

    def __exit__(self, *exception):
        self.file.close()

    def add(self, predictions):
        for one in predictions:
            heat_map = next(self.names)  # an image that cannot be read has one as well
            heat_map, score = ("", "") if one.error else (heat_map, f"{one.decision:.6g}")
            if heat_map:
                with name_disk_errors(self.folder.parent / heat_map):
                    save_score_map(self.folder / heat_map, one.image, one.score_map, **self.limits)
            with name_disk_errors(self.folder.parent / SCORES_FILE):
                cells = (
                    text_cell(one.image),
                    score,
                    one.verdict,
                    text_cell(heat_map),
                    text_cell(one.error),
                )
                self.rows.writerow(cells)

    def finish(self):
        with name_disk_errors(self.folder.parent / SCORES_FILE):
            self.file.close()


def listed_heat_maps(path):
    """Names of the heat maps that belong to an earlier scores.csv."""
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        try:
            rows = csv.DictReader(file)
            is_ours = rows.fieldnames in (COLUMNS, _FORMER_COLUMNS)
            names = [cell_text(row["heat_map"] or "") for row in rows] if is_ours else []
        except csv.Error:  # a file of somebody else
            return []
    return [name for name in names if name == Path(name).name and name.endswith(".png")]


class JsonResults(AbstractContextManager):
    """A list of records, kept in a temporary file and printed when all is done."""

    def __init__(self):
        self.file = tempfile.SpooledTemporaryFile(
            SPOOL_BYTES, mode="w+", encoding="ascii", newline="\n"
        )
        self.separator = "[\n"

    def __exit__(self, kind, *exception):
        with self.file:
            if kind is None:
                shutil.copyfileobj(self.file, sys.stdout)

    def add(self, predictions):
        for one in predictions:
            record = {
                "name": one.image,
                "score": one.decision,
                "verdict": one.verdict,
                "regions": one.regions,
                "error": one.error or None,
            }
            # No NaN and no infinity, which JSON lacks.
            text = json.dumps(record, indent=2, allow_nan=False)
            with name_disk_errors(tempfile.gettempdir()):
                self.file.write(self.separator + textwrap.indent(text, "  "))
            self.separator = ",\n"

    def finish(self):
        with name_disk_errors(tempfile.gettempdir()):
            self.file.write("\n]\n")
            self.file.seek(0)


def make_explainer(model, folder):
    """The explainer of a report, with the good images that the detector was fitted on."""
    from skanomaly.report import Explainer

    try:
        check_nearest_good(model)
    except TypeError as error:
        raise ValueError(f"--good: {error}; leave --good out") from error
    images, n_fitted = load_data(folder).train.images, len(outermost(model, "memory_frames_"))
    n_seen = len(images) if seen_images(model) is None else count_seen(model, images)
    if len(images) != n_fitted or n_seen < n_fitted:
        raise ValueError(
            f"--good {folder}: expected the {n_fitted} images that the detector was fitted on, got "
            f"{len(images)} good ones, of which it has seen {n_seen}; pass the folder that was "
            "passed to fit or tune"
        )
    return Explainer(model, images, n_peaks=N_PEAKS)


def _heat_map_names(images):
    """File names of heat maps, with the folder or a number where images have the same name.

    They are names on any system: names that differ in case alone count as the same.
    """
    paths = list(map(Path, images))
    n_alike = Counter(_comparable(path.stem) for path in paths)
    names, taken, numbers = [], set(), Counter()
    for path in paths:
        is_alone = n_alike[_comparable(path.stem)] == 1
        stem = portable(path.stem if is_alone else f"{path.parent.name}_{path.stem}")
        name = f"{stem}.png"
        while _comparable(name) in taken:
            numbers[_comparable(stem)] += 1
            name = f"{stem}-{numbers[_comparable(stem)] + 1}.png"
        taken.add(_comparable(name))
        names.append(name)
    return names


def portable(stem):
    """A name that any file system takes."""
    stem = _FORBIDDEN.sub("_", stem)
    stem = f"_{stem}" if _DEVICE.match(stem) else stem
    return stem.encode()[:_NAME_BYTES].decode(errors="ignore")


def _comparable(name):
    return unicodedata.normalize("NFC", name).casefold()
