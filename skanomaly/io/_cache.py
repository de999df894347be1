"""A folder of arrays by key.

A key is a digest of everything a result depends on, so nothing ever goes stale: what changes is
looked up under another key. Files are written whole or not at all, and may be shared by processes.
A cache only saves time: what is damaged counts as absent, and where nothing can be written,
nothing is kept. A warning says so.
"""

import os
import warnings
from pathlib import Path

import joblib

from skanomaly.exceptions import DamagedFileError
from skanomaly.io._arrays import read_arrays, write_arrays
from skanomaly.io._atomic import remove_leftovers, temporary_name


class Cache:
    """Arrays by key in a folder.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._is_writable = True

    def __contains__(self, key):
        return self._path(key).exists()

    def save(self, key, arrays):
        """Keep a dict of arrays of numbers; where that fails, warn, and keep nothing any more."""
        if not self._is_writable:
            return
        path, partial = self._path(key), self.folder / temporary_name()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # No fsync, unlike atomic_file: a lost file of the cache is computed again.
            write_arrays(partial, arrays)
            os.replace(partial, path)
        except OSError as error:
            self._is_writable = False
            partial.unlink(missing_ok=True)
            _warn_of_loss(self.folder, error)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def load(self, key):
        """The dict of arrays kept under a key, or None: there is none, or it is damaged."""
        path = self._path(key)
        try:
            return read_arrays(path, "a file of the cache")[0]
        except FileNotFoundError:
            return None
        except (DamagedFileError, OSError) as error:
            warnings.warn(f"cache: {error}; it is computed again", stacklevel=2)
            return None

    def recall(self, key, compute):
        """The dict of arrays kept under a key; computed and kept where there is none yet."""
        arrays = self.load(key)
        if arrays is None:
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
        Whether to make the folder; where that fails, a warning says so. Without it a folder that
        is not there means no cache: so an estimator that was carried to another machine leaves no
        folders there.

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
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _warn_of_loss(folder, error)
    if not folder.is_dir():
        return None
    remove_leftovers(folder)
    return Cache(folder)


def _warn_of_loss(folder, error):
    """Say that results are not kept, at the caller of the Cache."""
    warnings.warn(
        f"cache {folder}: cannot be written ({error.strerror}); results are computed and not kept; "
        "free disk space, or name another folder",
        stacklevel=3,
    )
