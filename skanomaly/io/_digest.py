"""A digest of everything that a result depends on."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np

import skanomaly


def digest(*parts: Any) -> str:
    """SHA-256 of the contents of arrays, containers, numbers, strings and any other objects.

    Parameters
    ----------
    *parts : object
        Arrays, bytes, strings, numbers, None, paths, data classes, and lists, tuples and dicts of
        these are told apart by type and content, all elements of an array included. Any other
        object is told apart by what it pickles to.

    Returns
    -------
    str
        Hexadecimal. It differs between releases, so that no release reuses another's results.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.io import digest
    >>> one, other = np.zeros(5000), np.zeros(5000)
    >>> other[2500] = 1
    >>> digest({"weights": one}) == digest({"weights": other})
    False
    """
    total = hashlib.sha256(skanomaly.__version__.encode())
    for part in parts:
        _add(total, part)
    return total.hexdigest()


def _add(total, part):
    """Feed one part into a hash: its type, its length and its content."""
    if isinstance(part, np.ndarray) and part.dtype.kind not in "OT":
        _feed(total, f"array {part.dtype.str} {part.shape}", np.ascontiguousarray(part).data)
    elif isinstance(part, bytes):
        _feed(total, "bytes", part)
    elif part is None or isinstance(part, (bool, int, float, complex, str, np.generic)):
        # An int and the same number of numpy are one setting.
        part = part.item() if isinstance(part, np.generic) else part
        _feed(total, type(part).__name__, repr(part).encode())
    elif isinstance(part, Path):
        _feed(total, "path", os.fsencode(part))
    elif isinstance(part, (list, tuple)):
        _feed(total, type(part).__name__, str(len(part)).encode())
        for one in part:
            _add(total, one)
    elif isinstance(part, dict):
        _feed(total, "dict", str(len(part)).encode())
        for key, value in part.items():
            _add(total, key)
            _add(total, value)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        _feed(total, type(part).__qualname__, b"")
        _add(total, [getattr(part, field.name) for field in dataclasses.fields(part)])
    else:
        _feed(total, type(part).__qualname__, joblib.hash(part).encode())


def _feed(total, head, body):
    """Update a hash with a head of the body's length, so that no two parts run together."""
    total.update(f"{head} {memoryview(body).nbytes};".encode())
    total.update(body)
