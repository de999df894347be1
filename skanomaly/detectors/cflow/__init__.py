"""CFlow: how likely the features of a place are, by a normalizing flow of each layer."""

from skanomaly.detectors.cflow._cflow import CFlow

__all__ = ["CFlow"]
