"""What is known of families of networks, in one table."""

import contextlib
import re
from dataclasses import dataclass, field

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of the two networks that torchvision builds otherwise when it is given published weights.
_AS_PUBLISHED = {"transform_input": True, "aux_logits": False, "init_weights": False}


@dataclass(frozen=True)
class Backbone:
    """A family of classification networks.

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
    image_size : int
        Height and width that images are brought to where none are given, in pixels.
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
    image_size: int = 224
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
    Backbone(
        r"efficientnet_lite",
        # The first is an expansion at stride 8, of six times the channels of a stage's end.
        ("features.4.0.block.0", "features.5"),
        image_size=320,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        stages=("features.2", "features.3", "features.5"),
    ),
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
    """What is known of a backbone.

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


def default_layers(strides):
    """The default layers among those of a network, {layer: stride}, in their order.

    Returns
    -------
    tuple of str
        The last ones at strides 8 and 16 or, where all have the same, those after half and three
        quarters of the depth; empty where there are none.
    """
    names = list(strides)
    if len(set(strides.values())) == 1:
        depths = (len(names) // 2 - 1, 3 * len(names) // 4 - 1)
        return tuple(dict.fromkeys(names[depth] for depth in depths))
    last = {stride: name for name, stride in strides.items()}
    return (last[8], last[16]) if 8 in last and 16 in last else ()
