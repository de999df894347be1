"""Backbones: what is known of families of networks, and how networks are loaded.

:data:`BACKBONES` is the one table of families; :func:`find_backbone` looks a name up in it.
"""

from skanomaly.feature_extraction._tracing import trim
from skanomaly.feature_extraction.backbones._families import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    describe_backbone,
    find_backbone,
)
from skanomaly.feature_extraction.backbones._loading import (
    fingerprint,
    input_channels,
    load_network,
)

__all__ = [
    "BACKBONES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Backbone",
    "describe_backbone",
    "find_backbone",
    "fingerprint",
    "input_channels",
    "load_network",
    "trim",
]
