"""Networks by name or as modules, with their weights."""

import copy
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from skanomaly.exceptions import WeightsError
from skanomaly.feature_extraction.backbones import _efficientnet_lite, _hugging_face, _timm
from skanomaly.feature_extraction.backbones._families import describe_backbone
from skanomaly.utils.networks import seeded

_HEAD = re.compile(r"(fc|classifier|heads?)\.")  # parameters after the last layer that has maps
SOURCES = (_timm, _hugging_face)  # of networks that are not torchvision's


def load_network(backbone, weights, seed, image_size=None, configuration=None):
    """A whole network in evaluation mode, with its weights.

    Parameters
    ----------
    backbone : str or torch.nn.Module
        One of torchvision's classification networks or of the EfficientNet-Lites by name; one of
        timm's, "timm:" before its name; a model of Hugging Face, "hf:" before its name or
        folder; or a module, which is copied.
    weights : str, Path or None
        "DEFAULT" or another member of torchvision's weights for the backbone, a local file, of
        Hugging Face's a local folder, or None: random. Not used for a module, which brings its
        own.
    seed : int
        Of random weights.
    image_size : tuple (height, width) or None, default=None
        What a network that is built for one size of images is built for; None: torchvision's
        default. Embeddings of positions are interpolated to it. Other networks take any size.
    configuration : str or None, default=None
        Of a model of Hugging Face, from :func:`configuration_of`: no file is looked for.

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
        There is no such backbone, or it cannot be built for this size of images.
    """
    if isinstance(backbone, torch.nn.Module):
        # The user's own stays in its mode, in its precision and on its device.
        return copy.deepcopy(backbone).eval().float().cpu()
    for source in SOURCES:
        if backbone.startswith(source.PREFIX):
            if weights not in (None, "DEFAULT"):
                _check_path(weights, backbone)
            network = source.load(backbone, weights, seed, image_size, configuration)
            return network.eval().float()
    is_lite = backbone in _efficientnet_lite.VARIANTS
    if not is_lite and backbone not in models.list_models(module=models):
        raise ValueError(
            f"expected a torchvision classification backbone, one of "
            f'{", ".join(_efficientnet_lite.VARIANTS)}, "timm:" or "hf:" and a name of theirs, '
            f"or a torch.nn.Module, got {backbone!r}; "
            "torchvision.models.list_models(module=torchvision.models) lists torchvision's"
        )
    names = [] if is_lite else [*models.get_model_weights(backbone).__members__]
    if weights is None:
        return _random_network(backbone, seed, image_size)
    if isinstance(weights, str) and weights in ("DEFAULT", *names):
        if is_lite:
            return _local_network(backbone, _efficientnet_lite.find_weights(backbone), image_size)
        published = models.get_model_weights(backbone)[weights]
        return _published_network(backbone, published, image_size)
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(
            f"weights={str(weights)!r} is neither a file nor a name of weights of {backbone}: "
            f"{', '.join(['DEFAULT', *names])}"
        )
    return _local_network(backbone, path, image_size)


def configuration_of(backbone, network):
    """What a network is rebuilt from beside its name, JSON; None where the name is enough."""
    if not (isinstance(backbone, str) and backbone.startswith(_hugging_face.PREFIX)):
        return None
    configuration = json.loads(network.config.to_json_string(use_diff=False))
    configuration.pop("_name_or_path", None)  # a folder of this machine
    return json.dumps(configuration)


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


def check_file(path):
    """Refuse a file of weights that is not the one that its name stands for.

    As in all published names, the last part is the beginning of the file's SHA-256 digest:
    ``resnet18-f37072fd.pth``. A file without one may hold anything.

    Raises
    ------
    WeightsError
    """
    expected = re.search(r"-([0-9a-f]{8,64})\.pth?$", path.name)
    if expected is None:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected.group(1)):
        raise WeightsError(
            f"{path}: damaged, or not the published file: by its name its SHA-256 digest begins "
            f"with {expected.group(1)}, got {found}; fetch it again, or rename it if the weights "
            "are your own"
        )


def _check_path(weights, backbone):
    path = Path(weights)
    if not path.exists():
        raise WeightsError(
            f"weights={str(weights)!r} of {backbone} is neither a file nor a folder; name one, or "
            'take "DEFAULT"'
        )
    if path.is_file():
        check_file(path)


def _random_network(backbone, seed, image_size=None):
    if backbone in _efficientnet_lite.VARIANTS:
        with seeded(seed):
            return _efficientnet_lite.build(backbone).eval()
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
    check_file(path)
    network = _random_network(backbone, 0, image_size)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; the user needs the file's name
        raise WeightsError(f"{path}: not a file of torch weights ({error})") from error
    # A training's checkpoint holds them under this name.
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if backbone in _efficientnet_lite.VARIANTS:
        state = _efficientnet_lite.renamed(network, state)
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
