"""RegAD: registration learned over many categories, a detector from a handful of images."""

from skanomaly.detectors.regad._regad import RegAD
from skanomaly.detectors.regad._registration import RegistrationNetwork

__all__ = ["RegAD", "RegistrationNetwork"]
