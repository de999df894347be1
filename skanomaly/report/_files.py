"""Files that are there whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def check_target(path):
    """OSError naming the path unless a file can be written there; nothing stays behind."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file to write to, got a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; make it first")
    with _temporary(path) as temporary:
        temporary.touch(exist_ok=False)


def write_whole(path, chunks):
    """Write bytes to a file that appears only when all of them are on the disk.

    Parameters
    ----------
    path : str or Path
        A file that is there already is replaced.
    chunks : iterable of bytes

    Returns
    -------
    Path

    Raises
    ------
    OSError
        The disk is full, the folder is missing or read-only; the message names the path. What
        was at the path before is still there, and no half file is.
    """
    path = Path(path)
    with _temporary(path) as temporary:
        with open(temporary, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    return path


@contextmanager
def _temporary(path):
    """A file's place beside path, where a rename is one step; it is gone afterwards."""
    temporary = path.parent / f".{uuid4().hex}.tmp"
    try:
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        what = f"cannot be written: {error.strerror}; make room, or choose another folder"
        raise OSError(error.errno, what, str(path)) from error
