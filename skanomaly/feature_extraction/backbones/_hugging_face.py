"""Vision models of Hugging Face's transformers: the hidden states that they return are the layers.

``hidden_states.0`` is what goes into the first block, ``hidden_states.6`` what comes out of the
sixth, or of the sixth stage. They are tokens, or maps where the model says so itself.
"""

import inspect
import json
import re
import sys

import torch

from skanomaly.exceptions import WeightsError
from skanomaly.feature_extraction._axis_order import size_error
from skanomaly.feature_extraction._hooks import HookedNetwork
from skanomaly.feature_extraction.backbones._families import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    default_layers,
)
from skanomaly.utils.networks import seeded, shared_copy

PREFIX = "hf:"
_LAYER = re.compile(r"hidden_states\.(\d+)")


class HiddenStatesNetwork(torch.nn.Module):
    """A vision model that returns some of its hidden states.

    Parameters
    ----------
    network : torch.nn.Module
    layers : sequence of str, or None
        None: all of them.
    """

    def __init__(self, network, layers=None):
        super().__init__()
        self.network, self.layers = network, layers
        if not hasattr(network.config, "depths"):  # of stages, whose states may be maps
            self.layout = "tokens"
        self.arguments = {"output_hidden_states": True, **_arguments(network)}

    def forward(self, images):
        """Images (b, 3, H, W) -> {layer: tokens (b, n, C), or maps}."""
        outputs = self.network(pixel_values=images, **self.arguments)
        states = getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states
        found = {f"hidden_states.{i}": state for i, state in enumerate(states)}
        return found if self.layers is None else {name: found[name] for name in self.layers}


def made(network):
    """Whether transformers made a network."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(network, transformers.PreTrainedModel)


def describe(network, image_size, layers=None):
    """What is known of a model, whose hidden states are looked at for a blank image.

    Raises ValueError where it takes no such images, or a layer is none of its hidden states.
    """
    height, width = image_size
    blank = torch.zeros(1, getattr(network.config, "num_channels", 3), height, width)
    try:
        with torch.inference_mode():
            states = HiddenStatesNetwork(network).forward(blank)
    except Exception as error:  # whatever a network of any make raises
        raise size_error(image_size, error) from error
    missing = [one for one in layers or () if _LAYER.fullmatch(one) and one not in states]
    if missing:
        raise ValueError(
            f"layers={tuple(layers)}: not all are in the network, {missing} are missing; it has "
            f"{next(iter(states))} to {list(states)[-1]}"
        )
    side, n_prefix = getattr(network.config, "patch_size", None), 0
    first = next(iter(states.values()))
    if first.ndim == 3 and isinstance(side, int):
        n_prefix = max(0, first.shape[1] - (height // side) * (width // side))
    blocks = list(states.items())[1:]  # without the input of the first
    strides = {name: _stride(state, image_size) for name, state in blocks}
    mean, std = _normalization(network.name_or_path)
    layers = default_layers(strides)
    return Backbone("", layers, layout=None, n_prefix_tokens=n_prefix, mean=mean, std=std)


def trim(network, layers):
    """The model with some layers as its output: hidden states, or modules within it by name."""
    if not all(_LAYER.fullmatch(layer) for layer in layers):
        return HookedNetwork(shared_copy(network), layers, _arguments(network)).eval()
    numbers = sorted(int(_LAYER.fullmatch(layer)[1]) for layer in layers)
    return HiddenStatesNetwork(network, [f"hidden_states.{i}" for i in numbers]).eval()


def load(backbone, weights, seed, image_size, configuration=None):
    """A model by the name of its repository, or from a folder, such as "hf:facebook/dinov2-small".

    `weights` is "DEFAULT", the path of a folder, or None: random. With a `configuration`, JSON as
    of a fitted one, no file is looked for.
    """
    transformers, name = _import(), backbone.removeprefix(PREFIX)
    try:
        if weights is not None:
            path = name if weights == "DEFAULT" else str(weights)
            network, notes = transformers.AutoModel.from_pretrained(path, output_loading_info=True)
            _check_complete(backbone, notes["missing_keys"])
            return network
        if configuration is None:
            config = transformers.AutoConfig.from_pretrained(name)
        else:
            config = transformers.AutoConfig.for_model(**json.loads(configuration))
    except OSError as error:
        raise WeightsError(
            f"{backbone} is neither a folder nor in the cache of Hugging Face, and could not be "
            f"downloaded ({error}). Ways out: name a local folder that has its config.json and "
            'model.safetensors, FeatureExtractor("hf:path/to/folder"); take "efficientnet_lite0", '
            "whose weights install as a package; or use FilterBank(), which needs no weights"
        ) from error
    with seeded(seed):
        return transformers.AutoModel.from_config(config)


def _arguments(network):
    """Arguments with which a model takes other sizes than that it was trained on."""
    takes = inspect.signature(network.forward).parameters
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}


def _check_complete(backbone, missing):
    needed = sorted(name for name in missing if "pooler" not in name)
    if needed:
        raise WeightsError(
            f"{backbone}: {len(needed)} tensors of the network are missing in its weights (first: "
            f"{needed[0]}); name the model that they are of"
        )


def _stride(state, image_size):
    """Pixels of the input from one place of maps to the next; 0: all tokens have the same."""
    if state.ndim != 4:
        return 0
    for stride in (8, 16):
        grid = tuple(-(-side // stride) for side in image_size)
        if grid in (tuple(state.shape[2:]), tuple(state.shape[1:3])):
            return stride
    return None


def _normalization(path):
    """Mean and standard deviation of a model's preprocessor_config.json, if there is one."""
    transformers = _import()
    try:
        config, _ = transformers.BaseImageProcessor.get_image_processor_dict(path)
    except OSError:  # it was published without, or is made here
        return IMAGENET_MEAN, IMAGENET_STD
    if not config.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    return (
        tuple(config.get("image_mean") or IMAGENET_MEAN),
        tuple(config.get("image_std") or IMAGENET_STD),
    )


def _import():
    try:
        import transformers
    except ImportError as error:
        raise WeightsError(
            'backbones whose names begin with "hf:" need transformers, which is not installed '
            f'({error}); pip install "skanomaly[transformers]", or take "efficientnet_lite0" or '
            "FilterBank(), which do without"
        ) from error
    return transformers
