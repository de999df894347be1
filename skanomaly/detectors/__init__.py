"""Detectors: features or images in; verdicts, scores and anomaly maps out.

The classes are those of the registry, each loaded on first use: some need torch, others do not.
"""

from typing import Any

from skanomaly.registry import DETECTORS, EXTRACTORS

_ENTRIES = {entry.name: entry for entry in (*DETECTORS, *EXTRACTORS) if entry.package == __name__}

__all__ = list(_ENTRIES)


def __getattr__(name: str) -> Any:
    if name in _ENTRIES:
        return _ENTRIES[name].load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
