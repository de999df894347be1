"""A folder of arrays by key: what was computed for an image need not be computed again.

A key is a digest of everything an answer depends on, so nothing ever goes stale: what changes is
looked up under another key. Files are written whole or not at all, and may be shared by processes.
"""

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

import joblib
import numpy as np

import skanomaly


class Cache:
    """Arrays by key in a folder.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder):
        self.folder = Path(folder)

    def __contains__(self, key):
        return self._path(key).exists()

    def save(self, key, arrays):
        """Keep a dict of arrays."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise

    def load(self, key):
        """The dict of arrays kept under a key; it must be there."""
        path = self._path(key)
        try:
            with open(path, "rb") as file, np.load(file) as arrays:
                return dict(arrays)
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: damaged or missing file of the cache; delete it") from error

    def _path(self, key):
        return self.folder / key[:2] / f"{key}.npz"


def open_cache(cache, *, create=False):
    """The Cache that a parameter ``cache`` names, or None.

    Parameters
    ----------
    cache : str, Path, joblib.Memory or None
    create : bool, default=False
        Whether to make the folder. Without it a folder that is not there means no cache: so an
        estimator that was carried to another machine leaves no folders there.
    """
    if isinstance(cache, joblib.Memory):
        cache = None if cache.location is None else Path(cache.location) / "skanomaly"
    if cache is None:
        return None
    folder = Path(cache).expanduser()
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    return Cache(folder) if folder.is_dir() else None


def digest(*parts):
    """SHA-256 of arrays, bytes and whatever has a lasting ``repr``, in hexadecimal.

    It is another one in each release, so that no release answers with what another has computed.
    """
    total = hashlib.sha256(skanomaly.__version__.encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            head, body = f"array {part.dtype.str} {part.shape}", np.ascontiguousarray(part).data
        elif isinstance(part, bytes):
            head, body = f"bytes {len(part)}", part
        else:
            text = repr(part)
            head, body = f"{type(part).__name__} {len(text)}", text.encode()
        total.update(head.encode())
        total.update(body)
    return total.hexdigest()
