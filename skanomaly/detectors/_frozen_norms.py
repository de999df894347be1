"""Training of convolutions whose batch norm keeps its statistics: both as one operation.

With fixed statistics a batch norm is a factor and a summand for each channel. Multiplied into the
weights of the convolution before it, it costs no pass over the maps and none over their gradients.
The parameters are those of the two modules, and so are their gradients, up to rounding.
"""

import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.feature_extraction import NotTraceableError, trace


class _NormedConvolution(nn.Module):
    """A convolution and the batch norm after it, in evaluation mode."""

    def __init__(self, convolution, norm):
        super().__init__()
        self.convolution, self.norm = convolution, norm

    def forward(self, maps):
        own, norm = self.convolution, self.norm
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # (C,)
        summand = norm.bias - norm.running_mean * factor
        if own.bias is not None:
            summand = summand + own.bias * factor
        weight = own.weight * factor[:, None, None, None]
        return F.conv2d(maps, weight, summand, own.stride, own.padding, own.dilation, own.groups)


def with_norms_joined(stage):
    """What computes the same as a stage of a backbone, with the same parameters, faster.

    Parameters
    ----------
    stage : nn.Module
        In the mode in which it is called, its batch norms in evaluation mode.

    Returns
    -------
    nn.Module
        The stage itself where it cannot be traced. Convolutions and norms with hooks stay as they
        are.
    """
    try:
        traced = trace(stage)
    except NotTraceableError:
        return stage
    parts = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if not _calls(node, parts, nn.BatchNorm2d):
            continue
        before = node.args[0]
        if _calls(before, parts, nn.Conv2d) and len(before.users) == 1:
            name = f"normed_{node.name}"
            joined = _NormedConvolution(parts[before.target], parts[node.target])
            traced.add_submodule(name, joined)
            with traced.graph.inserting_after(node):
                node.replace_all_uses_with(traced.graph.call_module(name, before.args))
            traced.graph.erase_node(node)
            traced.graph.erase_node(before)
    traced.recompile()
    return traced


def _calls(node, parts, kind):
    """Whether a node is a call of torch's own module of a kind, such as can be joined."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    part = parts[node.target]
    if type(part) is not kind or part._forward_hooks or part._forward_pre_hooks:
        return False
    if kind is nn.Conv2d:
        return part.padding_mode == "zeros"
    return part.affine and part.running_mean is not None
