"""GANomaly: an image's code compared with the code of its reconstruction."""

from skanomaly.detectors.ganomaly._ganomaly import GANomaly

__all__ = ["GANomaly"]
