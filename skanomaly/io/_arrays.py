"""The file format of the cache and of trained networks: a line of JSON, then the arrays' bytes.

The line says what the file is and, for each array, its dtype and shape; no code is ever run to
read one.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
_ALIGNMENT = 64  # bytes; arrays begin at multiples of their items' size


def write_arrays(path: str | Path, arrays: dict[str, Any], head: dict | None = None) -> None:
    """Write arrays by name, and a head of whatever JSON can hold, to a file.

    Parameters
    ----------
    path : str or Path
        Replaced without further care; see :func:`skanomaly.io.atomic_file`.
    arrays : dict of str to array-like
        Numbers and booleans.
    head : dict or None, default=None
    """
    # Largest items first: then every array begins at a multiple of its items' size.
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    shapes = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    line = json.dumps(
        {"format": FORMAT, "head": head or {}, "arrays": shapes},
        default=lambda number: number.item(),  # numpy's numbers
    ).encode()
    line = line.ljust(-(-(len(line) + 1) // _ALIGNMENT) * _ALIGNMENT - 1) + b"\n"
    with open(path, "wb") as file:
        file.writelines([line, *(array.tobytes() for array in arrays.values())])


def read_arrays(
    path: str | Path, kind: str = "a file of arrays"
) -> tuple[dict[str, np.ndarray], dict]:
    """Read a file of :func:`write_arrays`.

    Parameters
    ----------
    path : str or Path
    kind : str
        What messages call such a file.

    Returns
    -------
    arrays : dict of str to ndarray
        Writable.
    head : dict

    Raises
    ------
    ValueError
        The file is damaged, of another kind, or of another format.
    """
    with open(path, "rb") as file:
        content = bytearray(file.read())
    end = content.find(b"\n") + 1
    arrays = {}
    try:
        line = json.loads(content[:end])
        version, head, shapes = line["format"], line["head"], line["arrays"]
        for name, (dtype, shape) in shapes.items() if version == FORMAT else ():
            array = np.frombuffer(content, dtype, math.prod(shape), end).reshape(shape)
            arrays[name] = array
            end += array.nbytes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged, or not {kind} ({error})") from error
    if version != FORMAT:
        raise ValueError(
            f"{path} has format {version}, this version reads {FORMAT}; use the version of "
            "skanomaly that wrote it"
        )
    if end != len(content):
        raise ValueError(f"{path}: damaged, expected {end} bytes, got {len(content)}")
    return arrays, head
