"""Slow, obvious loops that compute what GlobalLocal's networks do."""

import numpy as np
import torch


def slow_partial_convolution(maps, mask, weight, bias, *, stride, padding, dilation):
    """Maps (b, c, h, w) and mask (b, 1, h, w), window by window."""
    b, _, height, width = maps.shape
    n_out, _, k, _ = weight.shape
    span = dilation * (k - 1) + 1
    rows = range(-padding, height + padding - span + 1, stride)
    columns = range(-padding, width + padding - span + 1, stride)
    found = torch.zeros(b, n_out, len(rows), len(columns))
    grown = torch.zeros(b, 1, len(rows), len(columns))
    for i in range(b):
        for r, y in enumerate(rows):
            for c, x in enumerate(columns):
                total, n_valid = torch.zeros(n_out), 0
                for dy in range(k):
                    for dx in range(k):
                        v, u = y + dilation * dy, x + dilation * dx
                        if 0 <= v < height and 0 <= u < width and mask[i, 0, v, u]:
                            n_valid += 1
                            total += weight[:, :, dy, dx] @ maps[i, :, v, u]
                if n_valid:
                    found[i, :, r, c] = total * k * k / n_valid + bias
                    grown[i, 0, r, c] = 1
    return found.detach(), grown


def slow_compactness(vectors):
    """Mean squared correlation coefficient over pairs of different columns."""
    c = np.corrcoef(vectors.astype(np.float64), rowvar=False)
    pairs = [c[i, j] ** 2 for i in range(len(c)) for j in range(len(c)) if i != j]
    return np.mean(pairs)


def slow_distillation(decoded, taught):
    """Mean over patches and entries of the squared difference."""
    return np.mean([np.mean((a - b) ** 2) for a, b in zip(decoded, taught, strict=True)])


def slow_pool(grid, maps):
    """Mean over the pixels of each patch of maps whose cells are repeated for their pixels."""
    b, h, w, c = maps.shape
    tall = np.repeat(maps, grid.height // h, axis=1)
    pixels = np.repeat(tall, grid.width // w, axis=2)
    found = np.empty((b, *grid.shape, c))
    for i, (y, x) in enumerate(grid.origins()):
        patch = pixels[:, y : y + grid.side, x : x + grid.side]
        found[:, i // grid.shape[1], i % grid.shape[1]] = patch.mean(axis=(1, 2))
    return found
