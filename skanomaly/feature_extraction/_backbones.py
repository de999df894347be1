"""From a backbone's name to a trimmed network: weights in, wanted layers out."""

import copy
import hashlib
import re
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.fx import GraphModule
from torch.fx.experimental.optimization import fuse
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

# Layers at strides 8 and 16, the end of a stage each: first pattern that matches the name.
_DEFAULT_LAYERS = (
    (r"(wide_)?res(net|next)", ("layer2", "layer3")),
    (r"regnet", ("trunk_output.block2", "trunk_output.block3")),
    (r"densenet", ("features.denseblock2", "features.denseblock3")),
    (r"squeezenet1_0", ("features.10", "features.12")),
    (r"squeezenet1_1", ("features.7", "features.12")),
    (r"vgg11$", ("features.14", "features.19")),
    (r"vgg11_bn", ("features.20", "features.27")),
    (r"vgg13$", ("features.18", "features.23")),
    (r"vgg13_bn", ("features.26", "features.33")),
    (r"vgg16$", ("features.22", "features.29")),
    (r"vgg16_bn", ("features.32", "features.42")),
    (r"vgg19$", ("features.26", "features.35")),
    (r"vgg19_bn", ("features.38", "features.51")),
    (r"mobilenet_v2", ("features.6", "features.13")),
    (r"mobilenet_v3_large", ("features.6", "features.12")),
    (r"mobilenet_v3_small", ("features.3", "features.8")),
    (r"(efficientnet|convnext|swin)", ("features.3", "features.5")),
    (r"shufflenet", ("stage2", "stage3")),
    (r"mnasnet", ("layers.9", "layers.11")),
    (r"googlenet", ("inception3b", "inception4e")),
    (r"inception_v3", ("Mixed_5d", "Mixed_6e")),
    (r"alexnet", ("features.4", "features.11")),
    (r"maxvit", ("blocks.1", "blocks.2")),
)
_CHANNELS_LAST = re.compile("swin")  # its maps are (b, h, w, C) already
_BUILD_ARGUMENTS = {  # as these two are built when they are given pretrained weights
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": False},
}
_ONE_AT_A_TIME = threading.RLock()  # of the threads that draw from torch's generator
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class WeightsError(OSError, ValueError):
    """Weights that cannot be found, fetched or used; the message names the ways out."""


def default_layers(backbone):
    """Names of the layers at strides 8 and 16 of a torchvision backbone.

    Raises ValueError for a family that is not in the table.
    """
    for pattern, layers in _DEFAULT_LAYERS:
        if re.match(pattern, backbone):
            return layers
    raise ValueError(
        f"no default layers are known for the backbone {backbone!r}; name them, "
        'for example layers=("layer2", "layer3"); torchvision.models.feature_extraction.'
        "get_graph_node_names lists a network's"
    )


def load_network(backbone, weights, seed):
    """A whole network in evaluation mode, with its weights.

    Parameters
    ----------
    backbone : str or torch.nn.Module
    weights : str, Path or None
        A member of torchvision's weights for the backbone, a local file, or None: random. Not
        used for a module, which brings its own.
    seed : int
        Of random weights.
    """
    if isinstance(backbone, torch.nn.Module):
        return copy.deepcopy(backbone).eval()
    if backbone not in models.list_models(module=models):
        raise ValueError(
            f"expected a torchvision classification backbone or a torch.nn.Module, got "
            f"{backbone!r}; torchvision.models.list_models(module=torchvision.models) lists them"
        )
    names = models.get_model_weights(backbone).__members__
    if weights is None:
        return _random_network(backbone, seed)
    if isinstance(weights, str) and (weights == "DEFAULT" or weights in names):
        return _published_network(backbone, models.get_model_weights(backbone)[weights])
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(
            f"weights={str(weights)!r} is neither a file nor one of torchvision's for {backbone}: "
            f"{', '.join(['DEFAULT', *names])}"
        )
    return _local_network(backbone, path)


def _random_network(backbone, seed):
    with seeded(seed):
        return models.get_model(backbone, weights=None, **_BUILD_ARGUMENTS.get(backbone, {})).eval()


def _published_network(backbone, weights):
    try:
        return models.get_model(backbone, weights=weights).eval()
    except OSError as error:  # no network, no server, or no room on the disk
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"the weights file {Path(weights.url).name} of {backbone} is not in {folder} and "
            f"could not be downloaded ({error}). Ways out: copy the file there from a machine "
            f"with internet; name a local file, FeatureExtractor({backbone!r}, "
            'weights="path/to/file.pth"); or use FilterBank(), which needs no weights'
        ) from error


def _local_network(backbone, path):
    network = _random_network(backbone, 0)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; the user needs the file's name
        raise WeightsError(f"{path}: not a file of torch weights ({error})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if "densenet" in backbone:  # published files still have the names of an old layout
        state = {re.sub(r"(norm|conv)\.([12])\.", r"\1\2.", k): v for k, v in state.items()}
    wanted = network.state_dict()
    missing = [
        name
        for name, value in wanted.items()
        if name not in state and not re.match(r"(fc|classifier|head)\.|.*num_batches", name)
    ]
    other = [n for n, v in wanted.items() if n in state and state[n].shape != v.shape]
    other = [n for n in other if not re.match(r"(fc|classifier|head)\.", n)]
    if missing or other:
        raise WeightsError(
            f"{path} holds no weights of {backbone}: {len(missing)} tensors are missing and "
            f"{len(other)} have another shape (first: {(missing + other)[0]})"
        )
    usable = {n: v.float() for n, v in state.items() if n in wanted and v.shape == wanted[n].shape}
    network.load_state_dict(usable, strict=False)
    return network.eval()


def trim(network, layers):
    """Network that answers {layer: maps} and holds nothing after the last layer.

    Batch normalisation is folded into the convolution before it.

    Raises
    ------
    ValueError
        A layer is not in the network.
    """
    try:
        trimmed = create_feature_extractor(network, list(layers), suppress_diff_warning=True).eval()
    except ValueError as error:
        raise ValueError(
            f"layers={tuple(layers)}: not all are in the network ({error}); "
            "torchvision.models.feature_extraction.get_graph_node_names lists its layers"
        ) from error
    return fuse(GraphModule(trimmed, trimmed.graph), no_trace=True).eval()


@contextmanager
def seeded(seed):
    """Draw torch's random numbers from a seed, and leave the caller's generators as they were."""
    # All threads draw from the same generator.
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def to_arrays(network):
    """The network's tensors as {name: ndarray}."""
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}


def from_arrays(network, arrays):
    """Put arrays, as from to_arrays, into a network of the same make."""
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    network.load_state_dict(tensors)
    return network


def fingerprint(arrays):
    """Hexadecimal digest of a network's arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def input_channels(network):
    """Channels the network's first convolution takes; 3 where there is none."""
    convolutions = (m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    return next((m.in_channels for m in convolutions), 3)


def channels_last(maps, backbone):
    """(b, C, h, w) -> (b, h, w, C), whatever the family's own order is."""
    if isinstance(backbone, str) and _CHANNELS_LAST.match(backbone):
        return maps
    return maps.permute(0, 2, 3, 1)
