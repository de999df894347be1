"""One Gaussian at every position of a map: streamed, factorised, Mahalanobis distances."""

from skanomaly.density._gaussian import PositionwiseGaussian

__all__ = ["PositionwiseGaussian"]
