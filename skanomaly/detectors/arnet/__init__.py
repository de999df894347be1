"""ARNet: restores what was erased from an image, and scores what is restored badly."""

from skanomaly.detectors.arnet._arnet import ARNet

__all__ = ["ARNet"]
