"""A backbone cut into stages that can be run one after the other."""

import torch

from skanomaly.feature_extraction import _backbones as backbones

DEFAULT_STAGES = {
    "resnet": ("layer1", "layer2", "layer3"),
    "wide_resnet": ("layer1", "layer2", "layer3"),
    "squeezenet1_1": ("features.4", "features.7", "features.12"),
    "squeezenet1_0": ("features.5", "features.10", "features.12"),
    "mobilenet_v2": ("features.3", "features.6", "features.13"),
}


def check_stages(backbone, stages):
    """The names of three stages, those known for the family where none are given."""
    if stages is not None:
        if isinstance(stages, str) or len(stages) != 3:
            raise ValueError(
                f"expected the names of 3 stages, as {DEFAULT_STAGES['resnet']}, got {stages!r}"
            )
        return tuple(stages)
    for family, known in DEFAULT_STAGES.items():
        if backbone.startswith(family):
            return known
    raise ValueError(
        f"no stages are known for the backbone {backbone!r}; name three of its parts, for example "
        'stages=("layer1", "layer2", "layer3")'
    )


def cut(network, stages):
    """The network in as many parts as stages, each to be fed with what the one before answers.

    Raises ValueError where a name is not in the network's sequence of parts.
    """
    named = dict(network.named_children())
    if isinstance(named.get("features"), torch.nn.Sequential):
        named = {f"features.{name}": part for name, part in named["features"].named_children()}
    names = list(named)
    places = [names.index(stage) for stage in stages if stage in names]
    if len(places) != len(stages) or places != sorted(set(places)):
        raise ValueError(
            f"stages={tuple(stages)}: expected three of the network's parts in their order, {names}"
        )
    starts = [0, *(place + 1 for place in places[:-1])]
    return [
        torch.nn.Sequential(*(named[name] for name in names[start : place + 1]))
        for start, place in zip(starts, places, strict=True)
    ]


def normalise(images):
    """(b, 3, H, W) in [0, 1] with ImageNet's mean and deviation taken out, as convolutions like it.

    In memory the channels are last.
    """
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)
    )
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)
