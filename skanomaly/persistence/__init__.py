"""Estimators in files that hold data alone, no code."""

from skanomaly.persistence._classes import register_class
from skanomaly.persistence._estimator_files import dump, load

__all__ = ["dump", "load", "register_class"]
