"""MKD: a small network that reproduces a pretrained one's features on good images alone."""

from skanomaly.detectors.mkd._mkd import MKD

__all__ = ["MKD"]
