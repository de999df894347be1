"""TDG: patch discriminators that name the transformation of an image, from a few good ones."""

from skanomaly.detectors.tdg._tdg import TDG

__all__ = ["TDG"]
