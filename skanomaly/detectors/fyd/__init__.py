"""FYD: images and their features aligned from coarse to fine, then a Gaussian per position."""

from skanomaly.detectors.fyd._fyd import FYD

__all__ = ["FYD"]
