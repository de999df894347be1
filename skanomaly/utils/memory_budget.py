"""Memory limits: parsing "4GB", and raising an error before work that would not fit."""

import numbers
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from skanomaly.exceptions import MemoryLimitError
from skanomaly.utils.dask_worker import worker_memory_left

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


def available_memory(root: str | Path = "/") -> int | None:
    """Bytes of memory available to this process, or None if that is unknown.

    What the machine has left, or less where a control group that the process is in, such as that
    of a container or of a batch job, has less left below its limit, or a dask worker before its
    process is ended. Caches of files count as available.

    Parameters
    ----------
    root : str or Path, default="/"
        Folder that holds ``proc`` and ``sys``.

    Returns
    -------
    int or None
    """
    root = Path(root)
    in_kilobytes = _numbers(root / "proc/meminfo")
    left = [worker_memory_left()]
    if "MemAvailable:" in in_kilobytes:  # Linux
        left.append(1024 * in_kilobytes["MemAvailable:"])
        left += [_left_in_group(folder, files) for folder, files in _memory_groups(root)]
    return min((n for n in left if n is not None), default=None)


class _GroupFiles(NamedTuple):
    """Names of a control group's files, and of what in its statistics can be given up."""

    limit: str
    used: str
    reclaimable: str


_VERSION_1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _GroupFiles("memory.max", "memory.current", "inactive_file")


def _memory_groups(root):
    """(folder, names of its files) of the control groups that limit this process's memory.

    A limit of a group holds for all groups in it: each group is followed by those around it, as
    far as they can be seen.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)  # as "4:memory:/jobs/7", or "0::/jobs/7"
        if controllers and "memory" not in controllers.split(","):
            continue
        for mount_root, mount_point in _mounts(root, is_unified=not controllers):
            # Of a container, all that can be seen may be its own group.
            is_seen = PurePosixPath(path).is_relative_to(mount_root) and ".." not in path
            inside = PurePosixPath(path).relative_to(mount_root) if is_seen else PurePosixPath()
            top = root / mount_point.lstrip("/")
            for below in (inside, *inside.parents):
                yield top / below, _VERSION_1 if controllers else _VERSION_2


def _mounts(root, is_unified):
    """(group, place) of each mount of the hierarchy of control groups that limits memory."""
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, kind = line.partition(" - ")
        kind = kind.split()  # type, source, options
        is_memory = kind[0] == "cgroup" and "memory" in kind[-1].split(",")
        if kind[0] == "cgroup2" if is_unified else is_memory:
            yield mount.split()[3:5]


def _left_in_group(folder, files):
    """Bytes below a group's limit, or None where it has none."""
    limit, used = ("".join(_lines(folder / name)) for name in (files.limit, files.used))
    if not limit.isdigit() or not used.isdigit():  # "max"; or no such file, as in the topmost group
        return None
    reclaimable = _numbers(folder / "memory.stat").get(files.reclaimable, 0)
    return max(int(limit) - int(used) + reclaimable, 0)


def _numbers(path):
    """{name: number} of lines such as "MemFree: 12 kB"; empty if there is no such file."""
    return {name: int(number) for name, number, *_ in map(str.split, _lines(path))}


def _lines(path):
    """Lines of a text file of the system; none if it cannot be read: it then tells nothing."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def check_memory(needs: Mapping[str, int], limit: int | str | None, advice: str) -> None:
    """Raise an error if what is held in memory at the same time would exceed a limit.

    Parameters
    ----------
    needs : dict of str to int
        Bytes for each purpose.
    limit : int, str or None
        The limit; None: the memory available to this process.
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
        allowed, source = available_memory(), "the memory available to this process"
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
