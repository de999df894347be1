"""CFLOW-AD's flows, one for each layer, and the code of a place, which they are conditioned on.

c(row, column)   P/2 numbers of the column, then P/2 of the row: sin, cos, sin, cos, ... of the
                 cell's number times 10000^(-2 i / (P/2)), i = 0, ..., P/4 - 1
z, log-det       blocks of :class:`AffineBlock` on x (C,), given c
log p(x | c)     -C/2 log 2 pi - |z|^2 / 2 + log-det
l                log p / C, the likelihood; or -|z|^2 / 2 C, the latent measure
"""

import numpy as np
import torch
from torch import nn

from skanomaly.detectors._flows import AffineBlock, Flow, log_likelihood
from skanomaly.utils.networks import seeded

MEASURES = ("likelihood", "latent")
LONGEST_WAVE = 1e4  # in cells, over 2 pi


def position_codes(height, width, size):
    """Codes of the cells of a grid, row by row.

    Parameters
    ----------
    height, width : int
    size : int
        Numbers of a code, a multiple of 4; 0 for none.

    Returns
    -------
    Tensor of shape (height * width, size), float32
    """
    frequencies = LONGEST_WAVE ** (-np.arange(0, size // 2, 2) / max(size // 2, 1))  # (P/4,)

    def waves(n_cells):
        angles = np.arange(n_cells)[:, None] * frequencies
        return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(n_cells, size // 2)

    columns = np.broadcast_to(waves(width)[None], (height, width, size // 2))
    rows = np.broadcast_to(waves(height)[:, None], (height, width, size // 2))
    codes = np.concatenate([columns, rows], axis=2).reshape(height * width, size)
    return torch.from_numpy(codes.astype(np.float32))


class ConditionalFlows(nn.Module):
    """A flow for each layer, and the codes of its places.

    Parameters
    ----------
    layer_shapes : list of tuple (h, w, C)
    n_blocks : int
    condition_size : int
        Numbers of a place's code.
    hidden_ratio, clamp, mixing
        As in :class:`AffineBlock`.
    seed : int
        Draws weights and mixings.
    """

    def __init__(
        self, layer_shapes, *, n_blocks, condition_size, hidden_ratio, clamp, mixing, seed=0
    ):
        super().__init__()
        kind = {"hidden_ratio": hidden_ratio, "clamp": clamp, "mixing": mixing}
        seeds = np.random.SeedSequence(seed).generate_state(len(layer_shapes) * n_blocks)
        seeds = iter(seeds.tolist())
        with seeded(seed):
            self.flows = nn.ModuleList(
                Flow(
                    AffineBlock(d, condition_size, seed=next(seeds), **kind)
                    for _ in range(n_blocks)
                )
                for _, _, d in layer_shapes
            )
        for i, (height, width, _) in enumerate(layer_shapes):
            codes = position_codes(height, width, condition_size)
            self.register_buffer(f"codes_{i}", codes, persistent=False)

    def codes(self, layer):
        """Codes (cells, P) of the places of a layer."""
        return self.get_buffer(f"codes_{layer}")

    def forward(self, layer, vectors, places):
        """Scores l (2, n), likelihood and latent, of vectors (n, C) of a layer.

        Places (n,) are the numbers of their cells; None: all of them, in their order.
        """
        codes = self.codes(layer)
        if places is not None:
            codes = codes.index_select(0, places)
        z, log_det = self.flows[layer](vectors, codes)
        n_channels = z.shape[1]
        latent = z.square().sum(1) / (-2 * n_channels)
        return torch.stack([log_likelihood(z, log_det) / n_channels, latent])
