"""DifferNet: the likelihood of an image's pooled features under a normalizing flow."""

from skanomaly.detectors.differnet._differnet import DifferNet

__all__ = ["DifferNet"]
