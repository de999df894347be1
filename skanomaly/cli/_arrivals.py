"""Images that arrive in a folder: found, waited for until they are whole, and read once."""

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skanomaly.datasets import EXTENSIONS
from skanomaly.exceptions import ImageError, MissingImageError
from skanomaly.images import image_content, read_image


class Stamp(NamedTuple):
    """What tells that a file has changed, without reading it."""

    n_bytes: int
    modified_ns: int


class Arrival(NamedTuple):
    """An image that is ready, or one that cannot be read."""

    name: str  # relative to the folder, escaped
    path: str
    stamp: Stamp
    digest: str  # SHA-256 of the content; "" if the file cannot even be opened
    image: np.ndarray | None  # None: cannot be read
    error: str = ""


class _WaitingFile:
    """When a file that is not judged yet was first seen as it is, and when to read it."""

    def __init__(self, path, stamp, now, settle):
        self.path = path
        self.stamp = stamp
        self.since = now
        self.next_try = now + settle


class Arrivals:
    """The images of a folder and its subfolders that are not in ``done``.

    Parameters
    ----------
    folder : Path
    done : dict of str to (Stamp, str)
        Names, and the stamp and digest of what was judged. It is changed here only for files that
        were touched, not changed; the caller adds what it has judged.
    settle : float
        Seconds for which a file must not have changed before it is read.
    patience : float
        Seconds for which a file that cannot be read may stay as it is before it counts as damaged.
    left_out : Path
        A folder inside of which files are no arrivals.
    """

    def __init__(self, folder, done, *, settle, patience, left_out):
        self.folder = Path(folder)
        self.done = done
        self.settle = settle
        self.patience = patience
        self.left_out = os.path.realpath(left_out)
        self.waiting: dict[str, _WaitingFile] = {}

    def scan(self) -> None:
        """Look at all files; OSError if the folder is gone."""
        found, now = dict(self._files()), time.monotonic()
        for name in self.waiting.keys() - found.keys():
            del self.waiting[name]  # taken away again, or given its final name
        for name, (path, stamp) in found.items():
            if name in self.done and self.done[name][0] == stamp:
                self.waiting.pop(name, None)
            elif name not in self.waiting or self.waiting[name].stamp != stamp:
                self.waiting[name] = _WaitingFile(path, stamp, now, self.settle)

    def ready(self) -> Iterator[Arrival]:
        """Yield the images that are whole and those that are given up, the oldest first.

        What is yielded is no longer waiting: the caller judges it.
        """
        now = time.monotonic()
        due = [name for name, file in self.waiting.items() if file.next_try <= now]
        for name in sorted(due, key=lambda name: (self.waiting[name].stamp.modified_ns, name)):
            arrival = self._read(name)
            if arrival is not None:
                del self.waiting[name]
                yield arrival

    def _read(self, name):
        """A file as an Arrival; None if it is not ready, or judged before."""
        file, digest = self.waiting[name], ""
        path = file.path
        try:
            content = image_content(path, path)
            if _stamp(os.stat(path)) != file.stamp:
                return None  # the next scan sees it
            digest = hashlib.sha256(content).hexdigest()
            if name in self.done and self.done[name][1] == digest:
                self.done[name] = file.stamp, digest
                return None
            return Arrival(name, path, file.stamp, digest, read_image(content, path))
        except (MissingImageError, FileNotFoundError):  # taken away; the next scan sees it
            return None
        except ImageError as error:
            now = time.monotonic()
            if now - file.since >= self.patience:
                return Arrival(name, path, file.stamp, digest, None, str(error))
            # It may be half written: look again, less and less often.
            file.next_try = min(
                now + max(self.settle, now - file.since), file.since + self.patience
            )
            return None

    def _files(self):
        """Name, path and Stamp of each file whose name is that of an image."""
        folders = [self.folder]
        while folders:
            folder = folders.pop()
            try:
                entries = os.scandir(folder)
            except FileNotFoundError as error:
                if folder != self.folder:
                    continue  # a subfolder that was removed meanwhile
                raise FileNotFoundError(
                    f"{folder}: the watched folder is gone; what was judged is written, start "
                    "again when the folder is back"
                ) from error
            with entries:
                for entry in entries:
                    if entry.name.startswith("."):  # hidden, as unfinished copies often are
                        continue
                    if entry.is_dir(follow_symlinks=False):  # a link may lead in a circle
                        if os.path.realpath(entry.path) != self.left_out:
                            folders.append(Path(entry.path))
                    elif entry.name.lower().endswith(EXTENSIONS):
                        yield from self._file(entry)

    def _file(self, entry):
        try:
            stamp = _stamp(entry.stat())
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return  # removed meanwhile, or a link to nothing or to itself
            raise
        name = Path(entry.path).relative_to(self.folder).as_posix()
        yield escaped(name), (entry.path, stamp)


def escaped(text: str) -> str:
    """A text as it stands in CSV files, bytes of names that are not UTF-8 as \\udc80 to \\udcff."""
    return text.encode("utf-8", "backslashreplace").decode()


def _stamp(status):
    return Stamp(status.st_size, status.st_mtime_ns)
