"""A folder of arrays by key.

A key is a digest of everything a result depends on, so nothing ever goes stale: what changes is
looked up under another key. Files are written whole or not at all, and may be shared by processes.
A cache only saves time: what is damaged counts as absent, and where nothing can be written, or
there is no folder, nothing is kept. A warning says so.

Processes that fill one folder share the work by claims: an empty file says that somebody is
computing the arrays of a key. Nobody waits for a claim, so that one left by a killed process only
changes the order of the work; it counts for some minutes.
"""

import os
import time
import warnings
from contextlib import suppress
from pathlib import Path

import joblib

from skanomaly.exceptions import DamagedFileError
from skanomaly.io._arrays import read_arrays, write_arrays
from skanomaly.io._atomic import remove_leftovers, temporary_name

_CLAIM = ".claim-"
_CLAIM_SECONDS = 600  # a claim that is older is one of a process that was killed


class Cache:
    """Arrays by key in a folder.

    Parameters
    ----------
    folder : Path
        A relative one is resolved now: it stays the same folder in other processes.
    """

    def __init__(self, folder):
        self.folder = Path(folder).absolute()
        self._is_writable = True

    def __contains__(self, key):
        return os.path.exists(self._path(key))

    def save(self, key, arrays):
        """Keep a dict of arrays of numbers; where that fails, warn, and keep nothing any more."""
        if not self._is_writable:
            return
        path, partial = self._path(key), self.folder / temporary_name()
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
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

    def claim(self, key):
        """Tell other processes that the arrays of a key are being computed here.

        Parameters
        ----------
        key : str

        Returns
        -------
        bool
            False if another thread or process has told so within the last ten minutes.
        """
        path = self._claim(key)
        if not self._is_writable:
            return True
        try:
            path.open("xb").close()  # of several that try at a time one succeeds
        except FileExistsError:
            if not _is_old(path):
                return False
            with suppress(OSError):  # deleted meanwhile
                os.utime(path)
        except OSError:  # where nothing can be written, nothing is shared
            pass
        return True

    def release(self, key):
        """Take a claim back, once the arrays are kept or are not going to be.

        Parameters
        ----------
        key : str
        """
        with suppress(OSError):  # it could not be made, or was deleted as old
            self._claim(key).unlink()

    def _path(self, key):
        # A str: a Path takes longer to make than a file to open.
        return os.path.join(self.folder, key[:2], key)

    def _claim(self, key):
        return self.folder / f"{_CLAIM}{key}"


def open_cache(cache: str | Path | joblib.Memory | None, *, create: bool = False) -> Cache | None:
    """The Cache that a parameter ``cache`` names, or None.

    Parameters
    ----------
    cache : str, Path, joblib.Memory or None
    create : bool, default=False
        Whether to make the folder; where that fails, a warning says so. Without it a folder that
        is not there means no cache, and a warning: so an estimator that was carried to another
        machine leaves no folders there.

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
        if not create:
            warnings.warn(
                f"cache {folder}: there is no such folder here; results are computed and not kept. "
                "Create it, or pass cache=None",
                stacklevel=2,
            )
        return None
    remove_leftovers(folder)
    for path in folder.glob(f"{_CLAIM}*"):
        if _is_old(path):
            path.unlink(missing_ok=True)
    return Cache(folder)


def _is_old(claim):
    """Whether a claim, or one that is gone meanwhile, does not count any more."""
    try:
        return time.time() - claim.stat().st_mtime > _CLAIM_SECONDS
    except OSError:
        return True


def _warn_of_loss(folder, error):
    """Say that results are not kept, at the caller of the Cache."""
    warnings.warn(
        f"cache {folder}: cannot be written ({error.strerror}); results are computed and not kept; "
        "free disk space, or name another folder",
        stacklevel=3,
    )
