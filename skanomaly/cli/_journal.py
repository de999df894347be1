"""The rows of watch: CSV files that are appended to, and tell at the next start what is done."""

import csv
import io
import os
import re
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from skanomaly.cli._arrivals import Stamp
from skanomaly.io import cell_text, name_disk_errors, text_cell

COLUMNS = [
    *("time", "name", "score", "verdict", "heat_map", "error", "drift"),
    *("detector", "n_bytes", "modified_ns", "sha256"),
]
_OURS = re.compile(r"(\d{4}-\d\d-\d\d|\d{6})\.csv")
_END = b"\r\n"  # of a row that is complete
_LOCK = ".watch.lock"


class Row(NamedTuple):
    """What is written of an image; all but the score as text."""

    time: str
    name: str
    score: float | None
    verdict: str
    heat_map: str
    error: str
    drift: str
    detector: str
    n_bytes: int
    modified_ns: int
    sha256: str


class Journal:
    """The CSV files in a folder, for one process at a time.

    A row is one write to the end of a file: a process that is killed has written it or not. A row
    that is cut off, as after a power failure, is removed at the next start.

    Parameters
    ----------
    folder : Path
        It exists.
    roll : int or None
        Rows of a file; None: a file for each day.
    """

    def __init__(self, folder, roll):
        self.folder = Path(folder)
        self.roll = roll
        self.file = None
        self.period = None  # name of the file that rows go to, without .csv
        self._lock = _lock(self.folder / _LOCK)
        self._number, self._n_rows = 1, 0  # of the last file with a number

    def close(self):
        """Close the file; rows are on the disk already."""
        if self.file is not None:
            self.file.close()
        self._lock.close()

    def read(self) -> list[Row]:
        """The rows of all files, in the order of their times.

        ValueError if a file with such a name is not one of watch; it is left as it is.
        """
        rows = []
        for path in sorted(self.folder.iterdir()):
            if _OURS.fullmatch(path.name):
                found = _read_rows(path)
                rows += found
                if path.stem.isdecimal():
                    self._number, self._n_rows = int(path.stem), len(found)
        return sorted(rows, key=lambda row: datetime.fromisoformat(row.time).timestamp())

    def start_period(self) -> str:
        """Name of the file of the next row."""
        if self.roll is None:
            period = f"{datetime.now():%Y-%m-%d}"
        else:
            if self._n_rows >= self.roll:
                self._number, self._n_rows = self._number + 1, 0
            period = f"{self._number:06d}"
        if period != self.period:
            if self.file is not None:
                self.file.close()
            path = self.folder / f"{period}.csv"
            with name_disk_errors(path):
                self.file = open(path, "ab", buffering=0)
                if self.file.tell() == 0:
                    self._write([COLUMNS])
            self.period = period
        return period

    def append(self, row: Row) -> None:
        """Write one row, to the disk itself."""
        with name_disk_errors(self.folder / f"{self.period}.csv"):
            # A float is written so that reading it gives the same one; None as nothing.
            self._write([row._replace(name=text_cell(row.name), error=text_cell(row.error))])
            os.fsync(self.file.fileno())
        self._n_rows += 1

    def _write(self, rows):
        left = memoryview(_encode(rows))
        while left:  # a disk that is nearly full takes a part, and then raises an error
            left = left[self.file.write(left) :]


def judged(rows: Iterable[Row]) -> dict[str, tuple[Stamp, str]]:
    """Stamp and digest of the last content that was judged of each name."""
    return {row.name: (Stamp(row.n_bytes, row.modified_ns), row.sha256) for row in rows}


def _encode(rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _read_rows(path):
    """Rows of a file, from which one that is cut off at the end is removed."""
    content, header = path.read_bytes(), _encode([COLUMNS])
    if not (content.startswith(header) or header.startswith(content)):
        raise ValueError(f"{path}: not a file of skanomaly watch; choose another folder with -o")
    whole = content[: content.rfind(_END) + len(_END)] if _END in content else b""
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    n_lines = 0
    try:
        reader = csv.reader(io.StringIO(whole.decode("utf-8"), newline=""))
        rows = []
        for cells in reader:
            n_lines = reader.line_num
            rows.append(cells if cells == COLUMNS else _parse(cells))
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path}: line {n_lines}: {error}; correct the line, or move the file away"
        ) from error
    return rows[1:]


def _parse(cells):
    if len(cells) != len(COLUMNS):
        raise ValueError(f"expected {len(COLUMNS)} columns, got {len(cells)}")
    row = Row(*cells)
    datetime.fromisoformat(row.time)
    return row._replace(
        name=cell_text(row.name),
        error=cell_text(row.error),
        score=float(row.score) if row.score else None,
        n_bytes=int(row.n_bytes),
        modified_ns=int(row.modified_ns),
    )


def _lock(path):
    """An open file that no other watch can open; the system unlocks it when this process ends."""
    with name_disk_errors(path):
        file = open(path, "a")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ValueError(
            f"{path.parent}: another skanomaly watch writes there ({error.strerror}); choose "
            "another folder with -o"
        ) from error
    return file
