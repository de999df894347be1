"""A network cut down to the layers that are wanted, by tracing it with torch.fx."""

import math
import threading

import torch
import torchvision
from torch.fx import GraphModule
from torch.fx.experimental.optimization import fuse
from torchvision.models.feature_extraction import NodePathTracer

from skanomaly.utils.threads import ForkSafeLock

# torch.fx replaces methods of torch.nn.Module while it traces. Two traces at a time would put them
# back in the wrong order, after which no module of the process can be called.
_ONE_TRACE = ForkSafeLock()
# As torchvision's own create_feature_extractor traces, its operators are not looked into; but its
# blocks of a convolution, normalization and activation are, so that these can be fused.
_OPERATORS = tuple(
    kind
    for kind in vars(torchvision.ops).values()
    if isinstance(kind, type) and issubclass(kind, torch.nn.Module)
)
_BLOCKS = torch.nn.Sequential, torchvision.ops.SqueezeExcitation


class NotTraceableError(Exception):
    """What a network does depends on the values or shapes that it meets."""


class ThreadTracer(NodePathTracer):
    """A tracer that leaves alone what other threads do with their modules meanwhile."""

    def __init__(self, opens_blocks):
        leaves = _OPERATORS
        if opens_blocks:
            leaves = tuple(kind for kind in leaves if not issubclass(kind, _BLOCKS))
        super().__init__(autowrap_modules=(math, torchvision.ops), leaf_modules=leaves)
        self.thread = threading.get_ident()

    def call_module(self, m, forward, args, kwargs):
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def trace(network):
    """A network as a graph of the same modules, torchvision's blocks looked into.

    May be called by several threads at a time, and while other threads compute.

    Parameters
    ----------
    network : torch.nn.Module

    Returns
    -------
    torch.fx.GraphModule

    Raises
    ------
    NotTraceableError
        The network cannot be traced.
    """
    _, graph = _trace(network, opens_blocks=True)
    return GraphModule(network, graph)


def _trace(network, opens_blocks):
    """A tracer, and the graph that it has found; NotTraceableError if there is none."""
    with _ONE_TRACE:
        tracer = ThreadTracer(opens_blocks)
        try:
            return tracer, tracer.trace(network)
        except Exception as error:  # whatever a network of any make raises
            raise NotTraceableError(f"{type(network).__name__}: {error}") from error


def trim(network, layers, *, opens_blocks=True):
    """Network that returns the outputs of some layers and holds nothing after the last of them.

    Batch normalization is folded into the convolution before it. May be called by several threads
    at a time, and while other threads compute.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode. It is left as it is.
    layers : sequence of str
        Names as torchvision's ``get_graph_node_names`` has them, or of a module that holds several.
    opens_blocks : bool, default=True
        Whether torchvision's blocks of a convolution and its normalization are looked into.

    Returns
    -------
    torch.fx.GraphModule
        Images (b, C, H, W) in, {layer: output} out, in the order in which they are computed.

    Raises
    ------
    ValueError
        A layer is not in the network.
    NotTraceableError
        The network cannot be traced.
    """
    tracer, graph = _trace(network, opens_blocks)
    ends = {}  # the last node of each layer, in the order of the nodes
    for node, name in tracer.node_to_qualname.items():
        for layer in layers:
            if name == layer or name.startswith(f"{layer}."):
                ends.pop(layer, None)
                ends[layer] = node
    missing = [layer for layer in layers if layer not in ends]
    if missing:
        raise ValueError(
            f"layers={tuple(layers)}: not all are in the network, {missing} are missing; "
            "torchvision.models.feature_extraction.get_graph_node_names lists its layers"
        )
    whole = GraphModule(network, graph)
    output = next(node for node in whole.graph.nodes if node.op == "output")
    output.args = (ends,)
    whole.graph.eliminate_dead_code()
    # A module made from a graph holds the parts that the graph names, and no others.
    return fuse(GraphModule(whole, whole.graph), no_trace=True).eval()
