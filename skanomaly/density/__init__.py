"""One Gaussian at every position of a map: learned in a stream, for Mahalanobis distances."""

from skanomaly.density._gaussian import PositionwiseGaussian

__all__ = ["PositionwiseGaussian"]
