"""GlobalLocal, "Glancing at the Patch": a patch compared with what its surroundings predict."""

from skanomaly.detectors.global_local._global_local import GlobalLocal

__all__ = ["GlobalLocal"]
