"""Files that are there whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def check_target(path):
    """OSError naming the path unless a file can be written there; nothing stays behind."""
    with _beside(path):
        pass


@contextmanager
def whole_file(path):
    """A file to write to, which becomes `path` when all is done and is gone where that fails.

    A file that is there already is replaced then, not before. Raises OSError naming the path at
    once where it cannot be written, before hours of work.
    """
    path = Path(os.path.realpath(path))
    with _beside(path) as temporary:
        yield temporary
        with naming(path):
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)


@contextmanager
def naming(path):
    """Errors of the disk with the path and the way out."""
    try:
        yield
    except OSError as error:
        what = f"cannot be written: {error.strerror}; make room, or choose another folder"
        raise OSError(error.errno, what, str(path)) from error


def unfinished():
    """A name that nothing else has."""
    return f".unfinished-{uuid4().hex[:12]}"


@contextmanager
def _beside(path):
    """An empty file in the same folder, from where a rename is one step; it is gone afterwards."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file to write to, got a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; make it first")
    temporary = path.with_name(f"{unfinished()}-{path.name}")
    try:
        with naming(path):
            temporary.touch(exist_ok=False)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
