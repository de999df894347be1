"""torch modules as arrays and back, and seeded initial weights."""

import copy
from contextlib import contextmanager

import numpy as np
import torch

from skanomaly.utils.threads import ForkSafeLock

__all__ = ["from_arrays", "seeded", "shared_copy", "to_arrays"]

_ONE_AT_A_TIME = ForkSafeLock()  # of the threads that draw from torch's global generator


@contextmanager
def seeded(seed, device=None):
    """Draw torch's random numbers from a seed, and leave the caller's generators as they were.

    Parameters
    ----------
    seed : int
    device : torch.device or None
        A GPU whose generator is seeded as well.
    """
    is_cuda = device is not None and device.type == "cuda"
    # All threads draw from the same generator.
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            torch.cuda.manual_seed(seed)
        yield


def to_arrays(network):
    """The network's tensors as {name: ndarray}, copied from whatever device they are on."""
    state = network.state_dict()
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}


def from_arrays(network, arrays):
    """Load arrays, as from to_arrays, into a network of the same architecture; returns it."""
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    network.load_state_dict(tensors)
    return network


def shared_copy(network):
    """Copy of a network, whose parts may be changed, with the same tensors."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
