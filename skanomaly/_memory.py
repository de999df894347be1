"""Memory budgets: "4GB" in words, bytes in numbers."""

import numbers
import re

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
