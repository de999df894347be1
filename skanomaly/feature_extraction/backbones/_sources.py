"""Networks of unlike makes: what is known of one, and how it is cut down to some layers.

Those of timm and Hugging Face have ways of their own, in a file each. Any other is traced, or, if
it cannot be, hooks pick up its modules' outputs.
"""

from functools import lru_cache

from torch.fx import GraphModule

from skanomaly.caching import code_identity
from skanomaly.feature_extraction import _tracing
from skanomaly.feature_extraction._hooks import HookedNetwork
from skanomaly.feature_extraction.backbones._families import describe_backbone
from skanomaly.feature_extraction.backbones._loading import SOURCES
from skanomaly.io import digest
from skanomaly.utils.networks import from_arrays, shared_copy


def describe_network(backbone, network, image_size, layers=None):
    """What is known of a backbone, once its network is there.

    Parameters
    ----------
    backbone : str or torch.nn.Module
    network : torch.nn.Module
        What was loaded for it.
    image_size : tuple (height, width)
    layers : sequence of str or None, default=None
        Those that are asked for; None: the default ones.

    Returns
    -------
    Backbone
        Without layers where they must be named.

    Raises
    ------
    ValueError
        The network does not take images of this size; or a layer is not there.
    """
    for source in SOURCES:
        if source.made(network):
            return source.describe(network, image_size, layers)
    return describe_backbone(backbone)


def trim(network, layers):
    """Network that returns the outputs of some layers.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode. It is left as it is.
    layers : sequence of str
        Names as timm's ``feature_info`` has them; ``hidden_states.6`` of a model of Hugging Face;
        as torchvision's ``get_graph_node_names`` has them; or, of a network that cannot be
        traced, as ``named_modules`` has them.

    Returns
    -------
    torch.fx.GraphModule or torch.nn.Module
        Images (b, C, H, W) in, {layer: output} out, in the order in which they are computed. A
        traced one holds nothing after the last layer, and its batch normalization is folded into
        the convolution before it.

    Raises
    ------
    ValueError
        A layer is not in the network.
    """
    for source in SOURCES:
        if source.made(network) and (trimmed := source.trim(network, layers)) is not None:
            return trimmed
    try:
        return _tracing.trim(network, layers)
    except _tracing.NotTraceableError:
        return HookedNetwork(shared_copy(network), layers).eval()


def rebuild(network, layers, arrays):
    """A trimmed network as it was when its tensors were taken.

    Parameters
    ----------
    network : torch.nn.Module
        The whole one, of any weights.
    layers : sequence of str
    arrays : dict of str to ndarray
        As from :func:`skanomaly.utils.networks.to_arrays`, of this or an earlier version, which did
        not look into all blocks.

    Returns
    -------
    torch.fx.GraphModule or torch.nn.Module
    """
    trimmed = trim(network, layers)
    if isinstance(trimmed, GraphModule) and trimmed.state_dict().keys() != arrays.keys():
        trimmed = _tracing.trim(network, layers, opens_blocks=False)
    return from_arrays(trimmed, arrays)


def describe_code(trimmed):
    """What tells a trimmed network's computations from others', beside its weights."""
    if isinstance(trimmed, GraphModule):
        return trimmed.code, str(trimmed)
    kinds = {type(module) for module in trimmed.modules()}
    kinds = (kind for kind in kinds if not kind.__module__.startswith("torch."))
    code = sorted(map(_class_digest, kinds))
    settings = vars(trimmed).get("arguments"), vars(trimmed).get("indices"), trimmed.layers
    return code, settings, str(trimmed)


@lru_cache(maxsize=1024)
def _class_digest(kind):
    return digest(code_identity(kind))
