"""Make a trimmed network fast on an x86 processor: packed weights, fused element-wise steps.

oneDNN keeps convolution weights in a layout of its own. Eager torch rearranges them at every call
and writes each intermediate map to memory; here weights are rearranged once, and activations and
the sum of a residual block happen while the convolution's result is still in the cache. The
numbers are the same up to the order of rounding.
"""

import operator
import platform

import torch
import torch.nn.functional as F

_SUMS = (operator.add, operator.iadd, torch.add)
# As oneDNN has them: name and limits.
_RELU: tuple = ("relu", [])
_RELU6: tuple = ("hardtanh", [0.0, 6.0])
_RELUS = (F.relu, torch.relu, F.relu_, torch.relu_)


def can_pack():
    """Whether this processor and this torch have packed convolutions."""
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    )


def has_fast_bfloat16():
    """Whether this processor multiplies bfloat16 numbers in hardware."""
    supports = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(supports.get("avx512_bf16") or supports.get("amx_bf16"))


class PackedConvolution(torch.nn.Module):
    """A convolution with packed weights, then an optional sum with another map, then an activation.

    The best layout depends on the input's shape: weights are packed for the first one seen, and
    every later input must have it.
    """

    def __init__(self, convolution, activation):
        super().__init__()
        c = convolution
        # In the order in which oneDNN's operators take them.
        self.geometry = (list(c.padding), list(c.stride), list(c.dilation), c.groups)
        self.activation, self.limits = activation
        self.weight = c.weight.detach()
        self.bias = None if c.bias is None else c.bias.detach()
        self.is_packed = False

    def forward(self, x, other=None):
        """Maps (b, C, h, w), and maps of the result's shape to be added -> maps (b, C', h', w')."""
        if not self.is_packed:
            self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
                self.weight.to_mkldnn(), *self.geometry, list(x.shape)
            )
            self.is_packed = True
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x,
                self.weight,
                self.bias,
                *self.geometry,
                self.activation or "none",
                self.limits,
                "",
            )
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self.weight, self.bias, *self.geometry, "add", 1.0, self.activation, [], None
        )


class SlicedMaxPool(torch.nn.Module):
    """Max pooling by shifted slices, rows first: torch's own is slow where channels are last."""

    def __init__(self, pool):
        super().__init__()
        self.kernel, self.stride, self.padding = (
            _pair(v) for v in (pool.kernel_size, pool.stride, pool.padding)
        )
        self.ceil_mode = pool.ceil_mode

    def forward(self, x):
        for axis in (2, 3):  # of (b, C, h, w)
            x = self._along(x, axis)
        return x

    def _along(self, x, axis):
        kernel, stride, before = (v[axis - 2] for v in (self.kernel, self.stride, self.padding))
        n = x.shape[axis]
        n_out = (n + 2 * before - kernel) // stride + 1
        if (
            self.ceil_mode
            and n_out * stride < n + before
            and (n_out - 1) * stride + kernel < n + 2 * before
        ):
            n_out += 1  # a last window that hangs over, as long as it starts inside
        after = (n_out - 1) * stride + kernel - n - before
        if before or after > 0:
            # Pairs of sides from the last axis on: columns, then rows.
            border = [before, max(after, 0)]
            x = F.pad(x, border if axis == 3 else [0, 0, *border], value=float("-inf"))
        # Slice i holds the i-th place of every window; the maximum over slices is the pooling.
        reach = (n_out - 1) * stride + 1
        slices = [x.narrow(axis, i, reach) for i in range(kernel)]
        slices = [s[:, :, ::stride] if axis == 2 else s[:, :, :, ::stride] for s in slices]
        largest = slices[0]
        for one in slices[1:]:
            largest = torch.maximum(largest, one)
        return largest


def pack(network):
    """Replace a traced network's convolutions, and what follows them, in place.

    Parameters
    ----------
    network : torch.fx.GraphModule
        In evaluation mode, on the CPU, in its final precision.
    """
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        module = modules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, torch.nn.Conv2d) and _is_plain(module):
            _replace(network, node, module, modules)
        elif isinstance(module, torch.nn.MaxPool2d) and _pair(module.dilation) == (1, 1):
            network.add_submodule(f"sliced_{node.name}", SlicedMaxPool(module))
            node.target = f"sliced_{node.name}"
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _is_plain(convolution):
    return convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


def _replace(network, node, convolution, modules):
    """One convolution, and the sum and activation after it that nothing else comes between."""
    last, other, activation = node, None, (None, [])
    summed = _only_user(last)
    if summed is not None and summed.target in _SUMS and len(summed.args) == 2:
        # The other term of the sum is a map, not a number or the same map again.
        rest = [a for a in summed.args if a is not last]
        after = _activation(_only_user(summed), modules)
        # oneDNN's operator has ReLU after a sum, and no other activation.
        if len(rest) == 1 and isinstance(rest[0], torch.fx.Node) and after in (None, _RELU):
            last, other = summed, rest[0]
    following = _only_user(last)
    if (after := _activation(following, modules)) is not None:
        last, activation = following, after
    name = f"packed_{node.name}"
    network.add_submodule(name, PackedConvolution(convolution, activation))
    # At the last step's place: the map to be added is computed before it.
    with network.graph.inserting_before(last):
        inputs = (node.args[0],) if other is None else (node.args[0], other)
        packed = network.graph.call_module(name, inputs)
    last.replace_all_uses_with(packed)
    network.graph.erase_node(last)


def _only_user(node):
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def _activation(node, modules):
    """What oneDNN calls the activation that a node is, and its limits; None for any other node."""
    if node is None:
        return None
    if node.op == "call_module":
        module = modules.get(node.target)
        if isinstance(module, torch.nn.ReLU6):
            return _RELU6
        return _RELU if isinstance(module, torch.nn.ReLU) else None
    is_relu = node.target in _RELUS or (
        node.op == "call_method" and node.target in ("relu", "relu_")
    )
    return _RELU if is_relu else None


def _pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
