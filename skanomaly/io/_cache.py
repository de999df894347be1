"""A folder of arrays by key.

A key is a digest of everything a result depends on, so nothing ever goes stale: what changes is
looked up under another key. Files are written whole or not at all, and may be shared by processes.
"""

import os
import tempfile
from pathlib import Path

import joblib

from skanomaly.io._arrays import read_arrays, write_arrays


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
        """Keep a dict of arrays of numbers."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # No fsync, unlike atomic_file: a lost file of the cache is computed again.
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        os.close(handle)
        try:
            write_arrays(partial, arrays)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise

    def load(self, key):
        """The dict of arrays kept under a key, which must be there."""
        path = self._path(key)
        try:
            return read_arrays(path, "a file of the cache")[0]
        except ValueError as error:
            raise ValueError(f"{error}; delete it") from error

    def recall(self, key, compute):
        """The dict of arrays kept under a key; computed and kept where there is none yet."""
        if key in self:
            return self.load(key)
        arrays = compute()
        self.save(key, arrays)
        return arrays

    def _path(self, key):
        return self.folder / key[:2] / key


def open_cache(cache: str | Path | joblib.Memory | None, *, create: bool = False) -> Cache | None:
    """The Cache that a parameter ``cache`` names, or None.

    Parameters
    ----------
    cache : str, Path, joblib.Memory or None
    create : bool, default=False
        Whether to make the folder. Without it a folder that is not there means no cache: so an
        estimator that was carried to another machine leaves no folders there.

    Returns
    -------
    Cache or None
    """
    if isinstance(cache, joblib.Memory):
        cache = None if cache.location is None else Path(cache.location) / "skanomaly"
    if cache is None:
        return None
    folder = Path(cache).expanduser()
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    return Cache(folder) if folder.is_dir() else None
