"""Files and folders of results that are written completely or not at all, even when killed."""

import json
import os
import platform
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_DAY = 24 * 60 * 60  # seconds
_STARTED = time.time()
_UNFINISHED, _COMPLETE = ".unfinished-", ".complete-"
_LEFTOVER = re.compile(r"\.(?:unfinished|complete)-(?:([0-9a-f]{8})-(\d+)-)?[0-9a-f]{12}")
_JOURNAL = ".journal"
_BLOCK = bytes(4096)  # a full disk takes empty files, but not so much


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
    deleted and an existing file stays as it is. If the process is killed, the next one that writes
    into the folder deletes the temporary file.

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
def atomic_folder(
    path: str | Path,
    index: str | None = None,
    listed: Callable[[Path], Iterable[str]] | None = None,
) -> Iterator[Path]:
    """Context that gives a hidden folder inside ``path``, whose files are moved there at the end.

    If an exception is raised inside, or the process is killed, earlier files stay as they are. At
    the end the earlier index is deleted first and the new one moved last, so that a folder with an
    index is complete. What a process killed in between has left is finished by the next one.

    Parameters
    ----------
    path : str or Path
        It is created where there is none. Files in it that are not replaced are kept.
    index : str or None, default=None
        Name of the file that lists the others.
    listed : callable or None, default=None
        ``listed(path)`` returns the names of the files that belong to an earlier index; those that
        are not replaced are deleted with it.

    Yields
    ------
    Path
        The hidden folder, for files; no folders are moved.

    Raises
    ------
    OSError
        The folder cannot be created or written to; the message names it.
    """
    path = Path(path)
    is_new = not path.exists()
    folder = path / temporary_name()
    try:
        path.mkdir(parents=True, exist_ok=True)
        _finish_leftovers(path)
        folder.mkdir()
    except OSError as error:
        raise OSError(
            f"{path}: the folder cannot be created or written to ({error.strerror})"
        ) from error
    try:
        with name_disk_errors(path):  # before the work is done
            (folder / _JOURNAL).write_bytes(_BLOCK)
            (folder / _JOURNAL).unlink()
        yield folder
        old = listed(path / index) if listed and index and (path / index).is_file() else ()
        _replace_files(folder, path, index, old)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # its files are moved, or of no use
        if is_new and not any(path.iterdir()):
            path.rmdir()


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
        if isinstance(error, ValueError):  # of an image or of weights, which says what it is about
            raise
        cause = error.strerror or str(error)
        reason = f"cannot be written: {cause}; free disk space, or choose another folder"
        raise OSError(error.errno, reason, str(path)) from error


def temporary_name() -> str:
    """A unique file name.

    Returns
    -------
    str
        It begins with a dot, so that the file is hidden while it is written, and tells which
        process writes it, so that :func:`remove_leftovers` of others leaves it alone.
    """
    return f"{_UNFINISHED}{_machine()}-{os.getpid()}-{uuid4().hex[:12]}"


def remove_leftovers(folder: str | Path) -> None:
    """Delete files and folders that processes which are gone have left unfinished.

    Parameters
    ----------
    folder : str or Path
        Those of processes of other machines are deleted after a day.
    """
    for path in _leftovers(folder, _UNFINISHED):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):  # another process was faster, or may and this one may not
                path.unlink()


@contextmanager
def _beside(path):
    """Context that gives an empty temporary file in the same folder, where renaming is atomic."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file to write to, got a folder")
    if path.exists() and not path.is_file():  # it would be replaced, /dev/null as well
        raise OSError(f"{path}: expected a file to write to, got a device, a pipe or a socket")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; create it first")
    remove_leftovers(path.parent)
    temporary = path.with_name(temporary_name())
    try:
        with name_disk_errors(path):
            temporary.write_bytes(_BLOCK)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _replace_files(folder, path, index, old):
    """Move the files of a hidden folder to `path`, and delete the old ones."""
    new = {file.name for file in folder.iterdir()}
    for name in sorted(new):
        if (path / name).is_dir():
            raise IsADirectoryError(f"{path / name}: expected a file to replace, got a folder")
    plan = {"index": index, "old": sorted(set(old) - new)}
    with name_disk_errors(path):
        (folder / _JOURNAL).write_text(json.dumps(plan))
        complete = path / folder.name.replace(_UNFINISHED, _COMPLETE, 1)
        os.rename(folder, complete)  # from here on a later process can finish
    try:
        _move_files(complete)
    except KeyboardInterrupt:
        _move_files(complete)  # a moment's work
        raise


def _move_files(complete):
    """Put the files of a complete folder in place; again, where it was interrupted."""
    path, journal = complete.parent, complete / _JOURNAL
    if journal.exists():  # it is deleted when all files are in place
        plan = json.loads(journal.read_text())
        index = plan["index"]
        is_moved = index is not None and not (complete / index).exists()
        if not is_moved:
            last = [] if index is None else [index]
            for name in (*last, *plan["old"]):
                (path / Path(name).name).unlink(missing_ok=True)
            names = sorted({file.name for file in complete.iterdir()} - {_JOURNAL, index})
            for name in (*names, *last):
                os.replace(complete / name, path / name)
    shutil.rmtree(complete, ignore_errors=True)


def _finish_leftovers(path):
    """Finish what was complete when a process was killed, and remove what was not."""
    for complete in sorted(_leftovers(path, _COMPLETE), key=os.path.getmtime):
        _move_files(complete)
    remove_leftovers(path)


def _leftovers(folder, prefix):
    """Paths in a folder that processes which are gone have left."""
    found = []
    with suppress(OSError), os.scandir(folder) as entries:  # without the right to list: none
        for entry in entries:
            name = _LEFTOVER.match(entry.name)
            if name and entry.name.startswith(prefix) and _is_left(entry, *name.groups()):
                found.append(Path(entry.path))
    return found


def _is_left(entry, machine, process):
    """Whether the process that wrote a file or folder is gone."""
    try:
        written = entry.stat(follow_symlinks=False).st_mtime
    except OSError:  # the file itself is gone meanwhile
        return False
    if machine != _machine() or sys.platform == "win32":  # there, asking would end the process
        return time.time() - written > _DAY
    if int(process) == os.getpid():  # in a container every start may have the same number
        return written < _STARTED - 1
    return not _is_running(int(process))


def _is_running(process):
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def _machine():
    """Eight digits that tell machines apart which share a folder."""
    return f"{zlib.crc32(platform.node().encode()):08x}"
