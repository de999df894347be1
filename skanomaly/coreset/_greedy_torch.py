"""The plain greedy loop as torch operations, for a GPU."""

import numpy as np

_ROUND_PICKS = 256  # picks between two checks of the floor: each check waits for the device


def greedy_order_torch(rows, n_samples, start, floor, device, progress):
    """Select the farthest row while one exceeds the floor.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
    n_samples : int
        How many rows to select at most.
    start : int
        Index of the first row selected.
    floor : float
        Squared distance at which to stop.
    device : str or torch device
        Every step stays there: the index of the next row is never read by the CPU.
    progress : callable
        Called with the number of rows selected.

    Returns
    -------
    picks : ndarray of shape (m,), int64, m at most n_samples
    reached : ndarray of shape (m + 1,), float32
        Squared distance of each to the nearest of those before, infinite for the first, and of the
        row that is then the farthest.
    """
    import torch

    rows = torch.from_numpy(rows).to(device)
    difference = torch.empty_like(rows)
    d = torch.full((len(rows),), torch.inf, device=device)  # (n,) squared, to the nearest pick
    picks = torch.empty(n_samples, dtype=torch.int64, device=device)
    reached = torch.empty(n_samples, device=device)  # squared distance of each pick when selected
    farthest = torch.tensor([torch.inf], device=device)
    p = torch.tensor([start], device=device)
    for n_picks in range(n_samples):
        picks[n_picks : n_picks + 1] = p
        reached[n_picks : n_picks + 1] = farthest
        torch.sub(rows, rows.index_select(0, p), out=difference)
        torch.minimum(d, difference.square_().sum(dim=1), out=d)
        d.index_fill_(0, p, -1.0)  # a pick is never the farthest again
        farthest, p = d.max(dim=0, keepdim=True)
        if (n_picks + 1) % _ROUND_PICKS == 0 or n_picks + 1 == n_samples:
            found = reached[: n_picks + 1].cpu().numpy()
            progress(n_picks + 1)
            if (found <= floor).any():
                m = int(np.argmax(found <= floor))
                return picks[:m].cpu().numpy(), found[: m + 1].clip(0)
    return picks.cpu().numpy(), np.append(found, farthest.cpu().numpy()).clip(0)
