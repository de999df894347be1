"""Normalizing flows: invertible networks whose log-determinant comes with each pass.

AffineBlock, of CFLOW-AD; x = [x1, x2], condition c:
    (s, t) = W2 relu(W1 [x1, c] + b1) + b2
    l      = clamp tanh(0.1 s)
    x2    <- x2 exp(l) + 0.1 t                                 log-det: sum of l
    x     <- g x + o,  g = 0.1 softplus(gamma; beta = 0.5)     log-det: sum of log g
    x     <- R x,      R a fixed permutation or rotation       log-det: 0
DoubleBlock, of DifferNet; x permuted, then halved:
    y1     = x1 exp(l2) + t2,   (s2, t2) of x2                 log-det: sum of l2
    y2     = x2 exp(l1) + t1,   (s1, t1) of y1                 log-det: sum of l1
    l      = 0.636 clamp arctan(s / clamp)
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

_STEP = 0.1  # of an AffineBlock's subnet and scale: it begins near the identity
_BETA = 0.5  # of its softplus
_ARCTAN = 0.636  # 2 / pi
LARGEST = 1e6  # what a DoubleBlock lets through: larger numbers are cut, nothing becomes infinite


class Flow(nn.Module):
    """Blocks one after the other.

    Parameters
    ----------
    blocks : iterable of Module
        Each with ``forward(x, condition)``, which returns y and log-determinants, and
        ``inverse(y, condition)``.
    """

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x, condition=None):
        """z (n, d) and log-determinants (n,) of x (n, d), under conditions (n, p)."""
        log_det = x.new_zeros(len(x))
        for block in self.blocks:
            x, more = block(x, condition)
            log_det = log_det + more
        return x, log_det

    def inverse(self, z, condition=None):
        """The x (n, d) that has these z."""
        for block in reversed(self.blocks):
            z = block.inverse(z, condition)
        return z


def log_likelihood(z, log_det):
    """log p (n,) of what flowed to z (n, d), which is standard normal."""
    return log_det - 0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


class AffineBlock(nn.Module):
    """One half moved by a function of the other and of a condition, then scaled and mixed.

    Parameters
    ----------
    d : int
        Numbers of a vector. One alone has no halves and is only scaled.
    n_condition : int
        Numbers of a condition; 0 for none.
    hidden_ratio : float
        Width of the subnet in units of its input.
    clamp : float
        Largest logarithm of a factor.
    mixing : {"permutation", "rotation"}
        What brings another half to the front for the next block.
    seed : int
        Draws the mixing; weights are drawn from torch's generator.
    """

    def __init__(
        self, d, n_condition=0, *, hidden_ratio=2.0, clamp=1.9, mixing="permutation", seed=0
    ):
        super().__init__()
        self.n_kept, self.clamp = d - d // 2, clamp
        self.gamma = nn.Parameter(torch.full((d,), math.log(math.expm1(1 / _STEP * _BETA)) / _BETA))
        self.offset = nn.Parameter(torch.zeros(d))
        self.mixing = _Permutation(d, seed) if mixing == "permutation" else _Rotation(d, seed)
        if d > 1:
            n_inputs = self.n_kept + n_condition
            n_hidden = max(1, round(hidden_ratio * n_inputs))
            self.of_x = nn.Linear(self.n_kept, n_hidden)
            self.of_condition = (
                nn.Linear(n_condition, n_hidden, bias=False) if n_condition else None
            )
            self.last = nn.Linear(n_hidden, 2 * (d // 2))
            for layer in filter(None, (self.of_x, self.of_condition)):
                for weights in layer.parameters():  # as of one layer of both
                    nn.init.uniform_(weights, -(n_inputs**-0.5), n_inputs**-0.5)

    def forward(self, x, condition=None):
        scale = _STEP * F.softplus(self.gamma, _BETA)
        log_det = scale.log().sum()
        if len(self.gamma) > 1:
            kept, moved = x[:, : self.n_kept], x[:, self.n_kept :]
            factors, shift = self._subnet(kept, condition)
            log_det = log_det + factors.sum(1)
            x = torch.cat((kept, moved * factors.exp() + shift), 1)
        return self.mixing(x * scale + self.offset), log_det

    def inverse(self, y, condition=None):
        x = (self.mixing.inverse(y) - self.offset) / (_STEP * F.softplus(self.gamma, _BETA))
        if len(self.gamma) > 1:
            kept, moved = x[:, : self.n_kept], x[:, self.n_kept :]
            factors, shift = self._subnet(kept, condition)
            x = torch.cat((kept, (moved - shift) * (-factors).exp()), 1)
        return x

    def _subnet(self, kept, condition):
        """Logarithms of factors, and shifts, each (n, d // 2)."""
        hidden = self.of_x(kept)
        if self.of_condition is not None:
            hidden = hidden + self.of_condition(condition)
        s, t = (_STEP * self.last(hidden.relu())).chunk(2, 1)
        return self.clamp * s.tanh(), t


class DoubleBlock(nn.Module):
    """A permutation, then each half moved by a function of the other.

    Parameters
    ----------
    d : int
        Numbers of a vector. One alone has no halves and stays as it is.
    hidden : tuple of int
        Widths of the subnets' hidden layers.
    clamp : float
        Largest logarithm of a factor, nearly.
    seed : int
        Draws the permutation; weights are drawn from torch's generator.
    """

    def __init__(self, d, hidden, *, clamp=3.0, seed=0):
        super().__init__()
        self.n_first, self.clamp = d // 2, clamp
        self.mixing = _Permutation(d, seed)
        if d > 1:
            n_second = d - self.n_first
            self.of_second = _subnet(n_second, hidden, 2 * self.n_first)
            self.of_first = _subnet(self.n_first, hidden, 2 * n_second)

    def forward(self, x, condition=None):
        x = self.mixing(x)
        if self.n_first == 0:
            return x, x.new_zeros(len(x))
        first, second = x[:, : self.n_first], x[:, self.n_first :]
        log_2, t2 = self._moves(self.of_second, second)
        first = first * log_2.exp() + t2
        log_1, t1 = self._moves(self.of_first, first)
        second = second * log_1.exp() + t1
        y = torch.cat((first, second), 1).clamp(-LARGEST, LARGEST)
        return y, log_1.sum(1) + log_2.sum(1)

    def inverse(self, y, condition=None):
        if self.n_first:
            first, second = y[:, : self.n_first], y[:, self.n_first :]
            log_1, t1 = self._moves(self.of_first, first)
            second = (second - t1) * (-log_1).exp()
            log_2, t2 = self._moves(self.of_second, second)
            y = torch.cat(((first - t2) * (-log_2).exp(), second), 1)
        return self.mixing.inverse(y)

    def _moves(self, subnet, x):
        """Logarithms of factors, and shifts, that a subnet has for the other half."""
        s, t = subnet(x).chunk(2, 1)
        return _ARCTAN * self.clamp * torch.atan(s / self.clamp), t


def _subnet(n_inputs, hidden, n_outputs):
    widths = (n_inputs, *hidden)
    layers = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n_outputs))


class _Permutation(nn.Module):
    """Numbers in another order, drawn once."""

    def __init__(self, d, seed):
        super().__init__()
        order = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("order", order)

    def forward(self, x):
        return x.index_select(1, self.order)  # many times as fast as x[:, order]

    def inverse(self, x):
        return x.index_select(1, self.order.argsort())


class _Rotation(nn.Module):
    """A rotation of the space of vectors, drawn once."""

    def __init__(self, d, seed):
        super().__init__()
        normal = torch.randn(d, d, generator=torch.Generator().manual_seed(seed))
        q, r = torch.linalg.qr(normal)
        q = q * r.diagonal().sign()  # then all orthogonal matrices are equally likely
        if torch.linalg.det(q) < 0:
            q[:, 0] *= -1
        self.register_buffer("matrix", q)

    def forward(self, x):
        return x @ self.matrix.T

    def inverse(self, x):
        return x @ self.matrix
