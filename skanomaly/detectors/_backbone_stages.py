"""A backbone cut into stages that can be run one after the other."""

import torch

from skanomaly.feature_extraction import backbones


def check_stages(backbone, stages):
    """The names of three stages, those known for the backbone's family where none are given."""
    if stages is None:
        stages = backbones.describe_backbone(backbone).stages
        if stages is None:
            raise ValueError(
                f"no stages are known for the backbone {backbone!r}; name three of its parts, for "
                'example stages=("layer1", "layer2", "layer3")'
            )
    if isinstance(stages, str) or len(stages) != 3:
        raise ValueError(
            f'expected the names of 3 stages, as ("layer1", "layer2", "layer3"), got {stages!r}'
        )
    return tuple(stages)


def cut(network, stages):
    """The network in as many parts as stages, each to be fed with what the one before returns.

    Parameters
    ----------
    network : torch.nn.Module
        Its children follow one another, or those of its ``features`` do.
    stages : sequence of str
        Names of the children that parts end with.

    Returns
    -------
    list of torch.nn.Sequential

    Raises
    ------
    ValueError
        A name is not in the network's sequence of parts, or they are not in its order.
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


def map_shapes(parts, height, width):
    """Shapes [(C, h, w), ...] of what each part returns for images of a size, seen on zeros."""
    maps, shapes = torch.zeros(1, 3, height, width), []
    with torch.inference_mode():
        for part in parts:
            maps = part.eval()(maps)
            shapes.append(tuple(maps.shape[1:]))
    return shapes


def normalize(images, backbone):
    """Images (b, 3, H, W) in [0, 1] normalized by the mean and standard deviation of a backbone.

    In memory the channels are last, in which convolutions are fastest.
    """
    known = backbones.describe_backbone(backbone)
    mean, std = (
        images.new_tensor(values)[:, None, None]  # (3, 1, 1)
        for values in (known.mean, known.std)
    )
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)
