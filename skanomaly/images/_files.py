"""The bytes of an image file: of a path, of bytes, or of a file object."""

import io
import os
import re
import stat
from pathlib import Path
from typing import Any

from skanomaly.exceptions import ImageError, MissingImageError

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # two letters at least: C:// is a drive
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def path_of(item: Any) -> str | None:
    """The path that an item of a collection of images is.

    Parameters
    ----------
    item : object

    Returns
    -------
    str or None
        None: the item is no path.
    """
    if isinstance(item, str):
        return str(item)
    return os.fsdecode(os.fspath(item)) if hasattr(item, "__fspath__") else None


def file_content(item: Any, name: str) -> bytes | None:
    """The bytes of the image file that an item of a collection of images stands for.

    Parameters
    ----------
    item : object
        A path or a URL, the bytes of a file, or a binary file object, which is read from its
        beginning.
    name : str
        Name of the image in messages, if it is not a path.

    Returns
    -------
    bytes or None
        None: the item stands for no file.

    Raises
    ------
    ImageError
        There is no such file, or it cannot be read.
    """
    path = path_of(item)
    if path is not None:
        return _read_path(path)
    if isinstance(item, bytes):
        return item
    if isinstance(item, (bytearray, memoryview)):
        return bytes(item)
    if isinstance(item, io.BytesIO):
        return item.getvalue()
    # An image of Pillow has no read; a named temporary file is one by its attributes only.
    return _read_object(item, name) if callable(getattr(item, "read", None)) else None


def is_url(path: str) -> bool:
    """Whether a path is a URL, as "s3://parts/001.png", which fsspec reads.

    Parameters
    ----------
    path : str

    Returns
    -------
    bool
    """
    return _URL.match(path) is not None


def _read_url(url):
    try:
        import fsspec
    except ImportError as error:
        raise ImageError(
            f"{url}: reading URLs needs fsspec; install it with: pip install fsspec, or pass paths"
        ) from error
    try:
        with fsspec.open(url, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise MissingImageError(f"{url}: no such image file") from error
    except Exception as error:  # whatever a store, its library or its absence may raise
        reason = str(error) or type(error).__name__
        raise ImageError(f"{url}: the file cannot be read ({reason})") from error


def _read_path(path):
    if is_url(path):
        return _read_url(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(
                f"{path}: expected an image file, got a folder; list its files, "
                "or read it with skanomaly.load_folder"
            )
        if not stat.S_ISREG(mode):  # opening it could wait forever
            kind = _KINDS.get(stat.S_IFMT(mode), "something else")
            raise ImageError(f"{path}: expected an image file, got {kind}")
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise MissingImageError(f"{path}: no such image file") from error
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # no permission; a name that no file can have
        raise ImageError(f"{path}: the file cannot be read ({error})") from error


def _read_object(file, name):
    try:
        file.seek(0)  # it may have been read before, and will be again
        content = file.read()
    except Exception as error:  # whatever an object that is like a file may raise
        raise ImageError(
            f"{name}: expected a binary file that can be read from its beginning more than once, "
            f"got {type(file).__name__} ({error}); pass its bytes: file.read()"
        ) from error
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise ImageError(
            f"{name}: expected a binary file, got one whose read returns "
            f"{type(content).__name__}; open it with mode 'rb'"
        )
    return bytes(content)
