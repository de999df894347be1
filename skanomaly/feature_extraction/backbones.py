"""Backbones: what is known of torchvision's families, and how networks are loaded.

:data:`BACKBONES` is the one table of families; :func:`find_backbone` looks a name up in it.
"""

import contextlib
import copy
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from skanomaly.exceptions import WeightsError
from skanomaly.feature_extraction._tracing import trim
from skanomaly.utils.networks import seeded

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

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of the two networks that torchvision builds otherwise when it is given published weights.
_AS_PUBLISHED = {"transform_input": True, "aux_logits": False, "init_weights": False}
_HEAD = re.compile(r"(fc|classifier|heads?)\.")  # parameters after the last layer that has maps


@dataclass(frozen=True)
class Backbone:
    """A family of torchvision's classification networks.

    Parameters
    ----------
    pattern : str
        Regular expression that the beginnings of the family's names match.
    layers : tuple of str
        The two default layers: the ends of the stages at strides 8 and 16 or, of a vision
        transformer, the blocks after half and three quarters of its depth.
    layout : {"NCHW", "NHWC", "tokens"} or None
        Order of the axes of the default layers' outputs: (b, C, h, w), (b, h, w, C), or (b, n, C).
        It serves where measuring leaves the layout open, and None says that it is not known.
    n_prefix_tokens : int
        Tokens before those of the image's patches, such as a class token.
    mean, std : tuple of three floats
        Of the images that the published weights were trained on, for pixels in [0, 1].
    stages : tuple of three str, or None
        Parts at strides 4, 8 and 16 that the network can be cut after, for registration.
    build_arguments : dict of str to object
        Of torchvision's builder, where weights are not downloaded by it.
    size_argument : str or None
        Argument of torchvision's builder that takes the side of the input, where a network is
        built for one size; such an input is square.
    """

    pattern: str
    layers: tuple
    layout: str | None = "NCHW"
    n_prefix_tokens: int = 0
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    stages: tuple | None = None
    build_arguments: dict = field(default_factory=dict)
    size_argument: str | None = None


def _vision_transformer(pattern, n_blocks):
    blocks = (n_blocks // 2 - 1, 3 * n_blocks // 4 - 1)
    return Backbone(
        pattern,
        tuple(f"encoder.layers.encoder_layer_{block}" for block in blocks),
        layout="tokens",
        n_prefix_tokens=1,
        size_argument="image_size",
    )


BACKBONES = (  # the first pattern that matches counts
    Backbone(r"(wide_)?res(net|next)", ("layer2", "layer3"), stages=("layer1", "layer2", "layer3")),
    Backbone(r"regnet", ("trunk_output.block2", "trunk_output.block3")),
    Backbone(r"densenet", ("features.denseblock2", "features.denseblock3")),
    Backbone(
        r"squeezenet1_0",
        ("features.10", "features.12"),
        stages=("features.5", "features.10", "features.12"),
    ),
    Backbone(
        r"squeezenet1_1",
        ("features.7", "features.12"),
        stages=("features.4", "features.7", "features.12"),
    ),
    Backbone(r"vgg11$", ("features.14", "features.19")),
    Backbone(r"vgg11_bn", ("features.20", "features.27")),
    Backbone(r"vgg13$", ("features.18", "features.23")),
    Backbone(r"vgg13_bn", ("features.26", "features.33")),
    Backbone(r"vgg16$", ("features.22", "features.29")),
    Backbone(r"vgg16_bn", ("features.32", "features.42")),
    Backbone(r"vgg19$", ("features.26", "features.35")),
    Backbone(r"vgg19_bn", ("features.38", "features.51")),
    Backbone(
        r"mobilenet_v2",
        ("features.6", "features.13"),
        stages=("features.3", "features.6", "features.13"),
    ),
    Backbone(r"mobilenet_v3_large", ("features.6", "features.12")),
    Backbone(r"mobilenet_v3_small", ("features.3", "features.8")),
    Backbone(r"(efficientnet|convnext)", ("features.3", "features.5")),
    Backbone(r"swin", ("features.3", "features.5"), layout="NHWC"),
    Backbone(r"shufflenet", ("stage2", "stage3")),
    Backbone(r"mnasnet", ("layers.9", "layers.11")),
    Backbone(r"googlenet", ("inception3b", "inception4e"), build_arguments=_AS_PUBLISHED),
    Backbone(r"inception_v3", ("Mixed_5d", "Mixed_6e"), build_arguments=_AS_PUBLISHED),
    Backbone(r"alexnet", ("features.4", "features.11")),
    Backbone(r"maxvit", ("blocks.1", "blocks.2")),
    _vision_transformer(r"vit_b", 12),
    _vision_transformer(r"vit_l", 24),
    _vision_transformer(r"vit_h", 32),
)
_UNKNOWN = Backbone(r".*", (), layout=None)


def find_backbone(name):
    """What is known of a torchvision backbone.

    Parameters
    ----------
    name : str

    Returns
    -------
    Backbone

    Raises
    ------
    ValueError
        The family is not in the table.

    Examples
    --------
    >>> from skanomaly.feature_extraction.backbones import find_backbone
    >>> find_backbone("resnet18").layers
    ('layer2', 'layer3')
    """
    for backbone in BACKBONES:
        if re.match(backbone.pattern, name):
            return backbone
    raise ValueError(
        f"no default layers are known for the backbone {name!r}; name them, "
        'for example layers=("layer2", "layer3"); torchvision.models.feature_extraction.'
        "get_graph_node_names lists a network's"
    )


def describe_backbone(backbone):
    """What is known of a backbone, little of a module or of a family that is not in the table.

    Parameters
    ----------
    backbone : str or torch.nn.Module

    Returns
    -------
    Backbone
        Without layers where they must be named, and with ImageNet's mean and standard deviation.
    """
    if isinstance(backbone, str):
        with contextlib.suppress(ValueError):
            return find_backbone(backbone)
    return _UNKNOWN


def load_network(backbone, weights, seed, image_size=None):
    """A whole network in evaluation mode, with its weights.

    Parameters
    ----------
    backbone : str or torch.nn.Module
        One of torchvision's classification networks by name, or a module, which is copied.
    weights : str, Path or None
        A member of torchvision's weights for the backbone, a local file, or None: random. Not
        used for a module, which brings its own.
    seed : int
        Of random weights.
    image_size : tuple (height, width) or None, default=None
        What a network that is built for one size of images is built for; None: torchvision's
        default. Embeddings of positions are interpolated to it. Other networks take any size.

    Returns
    -------
    torch.nn.Module
        On the CPU, in float32.

    Raises
    ------
    WeightsError
        The weights can neither be found nor fetched, or the file has none of this backbone. It is
        an OSError and a ValueError.
    ValueError
        torchvision has no such backbone, or cannot build it for this size of images.
    """
    if isinstance(backbone, torch.nn.Module):
        # The user's own stays in its mode, in its precision and on its device.
        return copy.deepcopy(backbone).eval().float().cpu()
    if backbone not in models.list_models(module=models):
        raise ValueError(
            f"expected a torchvision classification backbone or a torch.nn.Module, got "
            f"{backbone!r}; torchvision.models.list_models(module=torchvision.models) lists them"
        )
    names = models.get_model_weights(backbone).__members__
    if weights is None:
        return _random_network(backbone, seed, image_size)
    if isinstance(weights, str) and (weights == "DEFAULT" or weights in names):
        published = models.get_model_weights(backbone)[weights]
        return _published_network(backbone, published, image_size)
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(
            f"weights={str(weights)!r} is neither a file nor one of torchvision's for {backbone}: "
            f"{', '.join(['DEFAULT', *names])}"
        )
    return _local_network(backbone, path, image_size)


def input_channels(network):
    """Channels that the network's first convolution takes; 3 where there is none."""
    convolutions = (m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    return next((m.in_channels for m in convolutions), 3)


def fingerprint(arrays):
    """Hexadecimal SHA-256 of arrays by name, as of a network's weights."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _random_network(backbone, seed, image_size=None):
    known = describe_backbone(backbone)
    arguments = dict(known.build_arguments)
    if known.size_argument is not None and image_size is not None:
        height, width = image_size
        if height != width:
            raise ValueError(
                f"{backbone} takes square images, got image_size={height} x {width}; choose "
                'image_size=224, or a network of convolutions such as "resnet18"'
            )
        arguments[known.size_argument] = height
    try:
        with seeded(seed):
            return models.get_model(backbone, weights=None, **arguments).eval()
    except AssertionError as error:  # a side that is no multiple of the patches'
        raise ValueError(
            f"{backbone} cannot be built for image_size={image_size}: {error}; "
            "choose a multiple of the side of its patches"
        ) from error


def _published_network(backbone, weights, image_size):
    try:
        network = models.get_model(backbone, weights=weights).eval()
    except OSError as error:  # no network, no server, or no room on the disk
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"the weights file {Path(weights.url).name} of {backbone} is not in {folder} and "
            f"could not be downloaded ({error}). Ways out: copy the file there from a machine "
            f"with internet; name a local file, FeatureExtractor({backbone!r}, "
            'weights="path/to/file.pth"); or use FilterBank(), which needs no weights'
        ) from error
    size_argument = describe_backbone(backbone).size_argument
    if size_argument is None or image_size is None:
        return network
    resized = _random_network(backbone, 0, image_size)
    resized.load_state_dict(_at_size_of(resized, network.state_dict()))
    return resized


def _local_network(backbone, path, image_size):
    network = _random_network(backbone, 0, image_size)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; the user needs the file's name
        raise WeightsError(f"{path}: not a file of torch weights ({error})") from error
    # A training's checkpoint holds them under this name.
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if "densenet" in backbone:  # published files still have the names of an old layout
        state = {re.sub(r"(norm|conv)\.([12])\.", r"\1\2.", k): v for k, v in state.items()}
    state = _at_size_of(network, state)
    wanted = network.state_dict()
    # The head may be missing, or be one for other classes: features come from before it.
    missing = [
        name
        for name in wanted
        if name not in state and not _HEAD.match(name) and "num_batches" not in name
    ]
    other = [n for n, v in wanted.items() if n in state and state[n].shape != v.shape]
    other = [n for n in other if not _HEAD.match(n)]
    if missing or other:
        raise WeightsError(
            f"{path} holds no weights of {backbone}: {len(missing)} tensors are missing and "
            f"{len(other)} have another shape (first: {(missing + other)[0]})"
        )
    usable = {n: v.float() for n, v in state.items() if n in wanted and v.shape == wanted[n].shape}
    network.load_state_dict(usable, strict=False)
    return network.eval()


def _at_size_of(network, state):
    """A vision transformer's state with positions as the network has them; any other as it is."""
    if not isinstance(network, models.VisionTransformer) or "encoder.pos_embedding" not in state:
        return state
    return interpolate_embeddings(network.image_size, network.patch_size, dict(state))
