"""Files that are written completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def check_writable(path: str | Path) -> None:
    """Raise OSError naming the path unless a file can be written there.

    Parameters
    ----------
    path : str or Path
        No file is left there.
    """
    with _beside(path):
        pass


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Context that gives a temporary file, which is renamed to ``path`` at the end.

    An existing file is replaced only then. If an exception is raised inside, the temporary file is
    deleted and an existing file stays as it is.

    Parameters
    ----------
    path : str or Path
        If it cannot be written, OSError is raised on entry, before the work inside is done.

    Yields
    ------
    Path
        The temporary file, in the same folder.
    """
    path = Path(os.path.realpath(path))
    with _beside(path) as temporary:
        yield temporary
        with name_disk_errors(path):
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)


@contextmanager
def name_disk_errors(path: str | Path) -> Iterator[None]:
    """Context that adds the path and advice to the message of an OSError raised inside.

    Parameters
    ----------
    path : str or Path
    """
    try:
        yield
    except OSError as error:
        reason = f"cannot be written: {error.strerror}; free disk space, or choose another folder"
        raise OSError(error.errno, reason, str(path)) from error


def temporary_name() -> str:
    """A unique file name.

    Returns
    -------
    str
        It begins with a dot, so that the file is hidden while it is written.
    """
    return f".unfinished-{uuid4().hex[:12]}"


@contextmanager
def _beside(path):
    """Context that gives an empty temporary file in the same folder, where renaming is atomic."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file to write to, got a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; create it first")
    temporary = path.with_name(f"{temporary_name()}-{path.name}")
    try:
        with name_disk_errors(path):
            temporary.touch(exist_ok=False)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
