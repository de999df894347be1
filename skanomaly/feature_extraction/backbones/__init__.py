"""Backbones: what is known of families of networks, and how networks are loaded.

:data:`BACKBONES` is the one table of families; :func:`find_backbone` looks a name up in it.
"""

from skanomaly.feature_extraction.backbones._efficientnet_lite import has_weights
from skanomaly.feature_extraction.backbones._families import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    describe_backbone,
    find_backbone,
)
from skanomaly.feature_extraction.backbones._loading import (
    configuration_of,
    fingerprint,
    input_channels,
    load_network,
)
from skanomaly.feature_extraction.backbones._sources import (
    describe_code,
    describe_network,
    rebuild,
    trim,
)

__all__ = [
    "BACKBONES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Backbone",
    "configuration_of",
    "describe_backbone",
    "describe_code",
    "describe_network",
    "find_backbone",
    "fingerprint",
    "has_weights",
    "input_channels",
    "load_network",
    "rebuild",
    "trim",
]
