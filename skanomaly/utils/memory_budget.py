"""Memory limits: parsing "4GB", and raising an error before work that would not fit."""

import numbers
import re
from collections.abc import Mapping
from pathlib import Path

from skanomaly.exceptions import MemoryLimitError

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_memory(limit: int | str | None) -> int | None:
    """Convert a memory limit to bytes.

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
        If the limit cannot be parsed or is not positive.

    Examples
    --------
    >>> from skanomaly.utils.memory_budget import parse_memory
    >>> parse_memory("500MB"), parse_memory("2 GiB"), parse_memory(1024), parse_memory(None)
    (500000000, 2147483648, 1024, None)
    """
    if limit is None:
        return None
    n_bytes = _parse_text(limit) if isinstance(limit, str) else limit
    is_number = isinstance(n_bytes, numbers.Real) and not isinstance(n_bytes, bool)
    if not is_number or not 1 <= n_bytes < float("inf"):
        raise ValueError(
            "memory_limit must be a positive number of bytes, a string such as '500MB' or '4GB', "
            f"or None for no limit; got {limit!r}."
        )
    return int(n_bytes)


def _parse_text(text):
    """Bytes of a text such as "1.5 GB"; None if it is no such text."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]+)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    return float(match[1]) * unit if unit else None


def available_memory() -> int | None:
    """Bytes of memory available on this machine, or None if that is unknown.

    Returns
    -------
    int or None
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def check_memory(needs: Mapping[str, int], limit: int | str | None, advice: str) -> None:
    """Raise an error if what is held in memory at the same time would exceed a limit.

    Parameters
    ----------
    needs : dict of str to int
        Bytes for each purpose.
    limit : int, str or None
        The limit; None: the memory available on this machine.
    advice : str
        What the user may change; the end of the error message.

    Raises
    ------
    MemoryLimitError
        It is a MemoryError and a ValueError.
    """
    allowed = parse_memory(limit)
    source = f"memory_limit={limit!r}"
    if allowed is None:
        allowed, source = available_memory(), "the memory available on this machine"
    total = sum(needs.values())
    if allowed is not None and total > allowed:
        parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in needs.items() if size)
        raise MemoryLimitError(
            f"expected to need {format_bytes(total)} of memory ({parts}), which is more than "
            f"{source}, {format_bytes(allowed)}. Possible remedies: {advice}"
        )


def format_bytes(n_bytes: float) -> str:
    """A number of bytes with a unit, such as "1.5 GB".

    Parameters
    ----------
    n_bytes : int or float

    Returns
    -------
    str
    """
    for unit in ("TB", "GB", "MB", "kB"):
        size = n_bytes / _UNITS[unit.upper()]
        if size >= 1:
            return f"{size:.3g} {unit}"
    return f"{n_bytes} bytes"
