"""A network's inner layers by hooks, where it cannot be traced."""

from contextvars import ContextVar
from functools import partial

import torch

# Of the call in progress: a network may be used by several threads at a time.
_OUTPUTS: ContextVar = ContextVar("outputs", default=None)


class HookedNetwork(torch.nn.Module):
    """A whole network that returns the outputs of some modules within it.

    Parameters
    ----------
    network : torch.nn.Module
        The hooks stay with it.
    layers : sequence of str
        Names of modules, as ``named_modules`` has them.
    arguments : dict of str to object, default=None
        Passed to the network beside the images.

    Raises
    ------
    ValueError
        A layer is not in the network.
    """

    def __init__(self, network, layers, arguments=None):
        super().__init__()
        modules = dict(network.named_modules())
        missing = [layer for layer in layers if layer not in modules]
        if missing:
            raise ValueError(
                f"layers={tuple(layers)}: not all are in the network, {missing} are missing; its "
                "method named_modules lists them"
            )
        self.network, self.layers, self.arguments = network, tuple(layers), arguments or {}
        for layer in layers:
            modules[layer].register_forward_hook(partial(_keep, layer))

    def forward(self, images):
        """Images (b, C, H, W) -> {layer: output}, in the order in which they are computed."""
        outputs: dict = {}
        token = _OUTPUTS.set(outputs)
        try:
            self.network(images, **self.arguments)
        finally:
            _OUTPUTS.reset(token)
        return outputs


def _keep(layer, module, inputs, output):
    outputs = _OUTPUTS.get()
    if outputs is not None:
        outputs[layer] = _first_tensor(output)


def _first_tensor(output):
    """What a module returns first, where it returns several."""
    while isinstance(output, (tuple, list, dict)) and len(output):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output
