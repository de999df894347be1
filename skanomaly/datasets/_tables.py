"""Read tables of files as text editors, Excel and Windows write them."""

import codecs
import csv
import io
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from skanomaly.datasets._listing import entry_names

_SEPARATORS = (",", ";", "\t", "|")
_NEEDED = ("image", "label")
_KNOWN = (*_NEEDED, "mask", "split")
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx, .xls
_FALLBACK = "cp1252"  # what Windows and Excel write in Western Europe and America
_N_SHOWN = 3


class Table(NamedTuple):
    """The content of a table."""

    columns: list
    rows: list  # (place, {column: value}) of each row that is not empty
    encoding: str


def read_table(path: Path) -> Table:
    """Read a file of separated values in UTF-8, UTF-16 or Windows-1252.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no table of images; the message names the file and, where there is one, the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a CSV file, there is none.")
    text, encoding = _decode(path.read_bytes(), path)
    lines = list(io.StringIO(text, newline=None))  # a line may end as on any system
    n_before = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    separator = None
    if lines[n_before:] and lines[n_before].lower().startswith("sep=") and lines[n_before][4:5]:
        separator, n_before = lines[n_before][4], n_before + 1  # written by Excel
    lines = lines[n_before:]
    separator = separator or _find_separator(lines)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    records = _records(reader, path, n_before)
    columns = [name.lower() for name in next(records, ("", []))[1]]
    _check_columns(columns, path)
    return Table(columns, [_row(columns, *record) for record in records if record[1]], encoding)


class FileFinder:
    """Finds the files that a table names, also as another system writes their names.

    Parameters
    ----------
    root : Path
        To which the names are relative.
    encoding : str
        Of the table.
    """

    def __init__(self, root, encoding):
        self.root = root
        self.encoding = encoding
        self.lists = {}  # folder -> {name without case: names}
        self.missing = []  # (place, path, name)
        self.n_found = 0

    def find(self, name: str, place: str) -> Path:
        """The path of a file. One that does not exist is noted: see :meth:`check`."""
        spellings = list(self._spellings(name))
        for one in spellings:
            if os.path.isfile(self.root / one):
                self.n_found += 1
                return self.root / one
        for one in spellings:
            found = None if PurePosixPath(one).is_absolute() else self._without_case(one)
            if found is not None:
                self.n_found += 1
                return found
        self.missing.append((place, self.root / name, name))
        return self.root / name

    def check(self) -> None:
        """Raise FileNotFoundError if files are missing; the message names the first ones."""
        if not self.missing:
            return
        (place, path, name), *others = self.missing
        is_other = os.path.lexists(path)
        message = f"{place}: {path} " + ("is no file" if is_other else "does not exist")
        if others:
            n = len(self.missing) + self.n_found
            some = "; ".join(f"{place}: {path}" for place, path, _ in others[: _N_SHOWN - 1])
            message += f", nor do {len(others)} of the other {n - 1} files, such as {some}"
        if PureWindowsPath(name).drive and os.sep == "/":
            message += (
                ". This is a path of Windows with its drive: write paths relative to the table, "
                "or to the folder that you pass as root."
            )
        elif self.encoding == _FALLBACK:
            message += ". The table is not in UTF-8 and was read as Windows-1252: save it in UTF-8."
        else:
            message += "; correct it, or pass root."
        raise FileNotFoundError(message)

    def _spellings(self, name):
        """The names on this system that may be meant."""
        names = [name, name.replace("\\", "/")] if "\\" in name else [name]
        yield from names
        if self.encoding == _FALLBACK and not name.isascii():  # the bytes of the table
            yield from (os.fsdecode(one.encode(_FALLBACK)) for one in names)

    def _without_case(self, name):
        """The only file of this name in any capitalization, as Windows finds it, or None."""
        folder = self.root
        *parents, last = PurePosixPath(name).parts or ("",)
        for part in parents:
            folder = folder / part if os.path.isdir(folder / part) else self._only(folder, part)
            if folder is None:
                return None
        path = self._only(folder, last)
        return path if path is not None and os.path.isfile(path) else None

    def _only(self, folder, name):
        if folder not in self.lists:
            names = entry_names(folder) if os.path.isdir(folder) else []
            self.lists[folder] = {}
            for one in names:
                one = one.rstrip("/")
                self.lists[folder].setdefault(_comparable(one), []).append(one)
        found = self.lists[folder].get(_comparable(name), [])
        return folder / found[0] if len(found) == 1 else None


def _comparable(name):
    return unicodedata.normalize("NFC", name).casefold()


def _decode(content, path):
    """(text, encoding) of a file."""
    if content.startswith(_WORKBOOKS):
        raise ValueError(f"{path}: expected a CSV file, got a workbook; save it as CSV.")
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if wide else ("utf-8-sig", _FALLBACK):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:  # the next one may fit
            continue
        if "\0" not in text:
            return text, encoding
    raise ValueError(
        f"{path}: expected a CSV file encoded in UTF-8, UTF-16 or Windows-1252, got other bytes; "
        "save it as CSV in UTF-8."
    )


def _find_separator(lines):
    """The separator with which the first line has the columns, or a comma."""
    for separator in _SEPARATORS if lines else ():
        try:
            (names,) = csv.reader(lines[:1], delimiter=separator, skipinitialspace=True)
        except csv.Error:  # refused when the table is read
            continue
        if {name.strip().lower() for name in names} >= set(_NEEDED):
            return separator
    return ","


def _records(reader, path, n_before) -> Iterator[tuple[str, list]]:
    """(place, values) of the rows; ValueError naming the line if one cannot be read."""
    try:
        for values in reader:
            values = [value.strip() for value in values]
            yield f"{path}, line {reader.line_num + n_before}", values if any(values) else []
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num + n_before}: expected separated values, in double "
            f"quotes where needed, got something else ({error})."
        ) from error


def _check_columns(columns, path):
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise ValueError(
            f"{path}: expected a first line with the columns image, label and optionally mask and "
            "split, separated by commas, semicolons, tabs or |; there is no "
            f"{' and no '.join(missing)} in {columns}."
        )
    twice = [name for name in _KNOWN if columns.count(name) > 1]
    if twice:
        raise ValueError(f"{path}: expected each column once, got {twice} twice in {columns}.")


def _row(columns, place, values):
    if any(values[len(columns) :]):  # Excel ends lines with empty values
        raise ValueError(
            f"{place}: expected {len(columns)} values, got {len(values)}; put values that contain "
            "a separator in double quotes."
        )
    values = [*values, *[""] * (len(columns) - len(values))]
    return place, dict(zip(columns, values, strict=False))
