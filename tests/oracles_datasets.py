"""Slow, obvious computations of what the checks of data sets compute."""

import numpy as np


def block_fits(first, second, n_blocks, reach, faintest):
    """Best correlation of each block of an image with its surroundings in another; one pair.

    Returns (correlations, whether either has detail there), each with n_blocks ** 2 entries.
    """
    side = len(first) // n_blocks
    padded = np.pad(first, reach)
    fits, counts = [], []
    for i in range(n_blocks):
        for j in range(n_blocks):
            top, left = i * side, j * side
            block = second[top : top + side, left : left + side]
            block = block - block.mean()
            own = np.sqrt((block**2).sum())
            best = -np.inf
            for dy in range(2 * reach + 1):
                for dx in range(2 * reach + 1):
                    view = padded[top + dy : top + dy + side, left + dx : left + dx + side]
                    view = view - view.mean()
                    around = np.sqrt((view**2).sum())
                    scale = max(around * own, (faintest * side) ** 2)
                    best = max(best, (view * block).sum() / scale)
                    if dy == dx == reach:
                        counts.append(max(around, own) > faintest * side)
            fits.append(best)
    return np.array(fits), np.array(counts)
