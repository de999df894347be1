"""A folder of arrays by key: what was computed for an image need not be computed again.

A key is a digest of everything an answer depends on, so nothing ever goes stale: what changes is
looked up under another key. Files are written whole or not at all, and may be shared by processes.
"""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path

import joblib
import numpy as np

import skanomaly

_ALIGNMENT = 64  # bytes


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
        """Keep a dict of arrays of numbers: a line that says which, and their bytes."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Largest numbers first: then all begin at a multiple of their size.
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
        head = json.dumps({name: (a.dtype.str, a.shape) for name, a in arrays.items()})
        head = head.ljust(-(-(len(head) + 1) // _ALIGNMENT) * _ALIGNMENT - 1) + "\n"
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines([head.encode(), *(array.tobytes() for array in arrays.values())])
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise

    def load(self, key):
        """The dict of arrays kept under a key, which must be there."""
        path = self._path(key)
        content = bytearray(path.stat().st_size)
        with open(path, "rb") as file:
            file.readinto(content)
        end = content.find(b"\n") + 1
        arrays = {}
        try:
            for name, (dtype, shape) in json.loads(content[:end]).items():
                array = np.frombuffer(content, dtype, math.prod(shape), end).reshape(shape)
                arrays[name] = array
                end += array.nbytes
        except ValueError as error:
            raise ValueError(f"{path}: damaged file of the cache; delete it") from error
        return arrays

    def _path(self, key):
        return self.folder / key[:2] / key


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
