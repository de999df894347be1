"""Memory budgets: "4GB" in words, bytes in numbers."""

import numbers
import re
from pathlib import Path

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_memory(limit):
    """Turn a memory limit into bytes.

    Parameters
    ----------
    limit : int, str or None
        Bytes, or a number and a unit such as "500MB", "1.5 GB" or "2GiB"; None means no limit.

    Returns
    -------
    int or None

    Raises
    ------
    ValueError
        If the limit cannot be read or is not positive.

    Examples
    --------
    >>> from skanomaly._memory import parse_memory
    >>> parse_memory("500MB"), parse_memory("2 GiB"), parse_memory(1024), parse_memory(None)
    (500000000, 2147483648, 1024, None)
    """
    if limit is None:
        return None
    n_bytes = _from_words(limit) if isinstance(limit, str) else limit
    is_number = isinstance(n_bytes, numbers.Real) and not isinstance(n_bytes, bool)
    if not is_number or not 1 <= n_bytes < float("inf"):
        raise ValueError(
            "memory_limit must be a positive number of bytes, a string such as '500MB' or '4GB', "
            f"or None for no limit; got {limit!r}."
        )
    return int(n_bytes)


def _from_words(text):
    """Bytes of a text such as "1.5 GB"; None where it is not one."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]+)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    return float(match[1]) * unit if unit else None


class MemoryLimitError(MemoryError, ValueError):
    """Work that would not fit into memory, refused before it starts."""


def available_memory():
    """Bytes a process may still take on this machine, or None where that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # no Linux
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def check_memory(needs, limit, ways_out):
    """Refuse work whose parts do not fit.

    Parameters
    ----------
    needs : dict of str to int
        Bytes by what they are for, all held at the same time.
    limit : int, str or None
        The budget; None: what the machine has left.
    ways_out : str
        What the user may change.

    Raises
    ------
    MemoryLimitError
        It is a MemoryError and a ValueError.
    """
    allowed = parse_memory(limit)
    source = f"memory_limit={limit!r}"
    if allowed is None:
        allowed, source = available_memory(), "the memory this machine has left"
    total = sum(needs.values())
    if allowed is not None and total > allowed:
        parts = ", ".join(f"{name} {in_words(size)}" for name, size in needs.items() if size)
        raise MemoryLimitError(
            f"this needs {in_words(total)} ({parts}), more than {source}, {in_words(allowed)}. "
            f"Ways out: {ways_out}"
        )


def in_words(n_bytes):
    """Bytes as a person would say them: "1.5 GB"."""
    for unit in ("TB", "GB", "MB", "kB"):
        size = n_bytes / _UNITS[unit.upper()]
        if size >= 1:
            return f"{size:.3g} {unit}"
    return f"{n_bytes} bytes"
