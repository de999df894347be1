"""The plain greedy loop as torch operations, for an accelerator."""

import numpy as np

_ROUND_PICKS = 256  # picks between two looks at the result: each look waits for the device


def greedy_order_torch(rows, n_samples, start, floor, device, progress):
    """Pick the farthest row while one lies above the floor; every step stays on the device."""
    import torch

    rows = torch.from_numpy(rows).to(device)
    difference = torch.empty_like(rows)
    d = torch.full((len(rows),), torch.inf, device=device)
    picks = torch.empty(n_samples, dtype=torch.int64, device=device)
    reached = torch.empty(n_samples, device=device)  # squared distance of each pick when picked
    farthest = torch.tensor([torch.inf], device=device)
    p = torch.tensor([start], device=device)
    for n_picks in range(n_samples):
        picks[n_picks : n_picks + 1] = p
        reached[n_picks : n_picks + 1] = farthest
        torch.sub(rows, rows.index_select(0, p), out=difference)
        torch.minimum(d, difference.square_().sum(dim=1), out=d)
        d.index_fill_(0, p, -1.0)
        farthest, p = d.max(dim=0, keepdim=True)
        if (n_picks + 1) % _ROUND_PICKS == 0 or n_picks + 1 == n_samples:
            enough = reached[: n_picks + 1].cpu().numpy() <= floor
            progress(n_picks + 1)
            if enough.any():
                return picks[: int(np.argmax(enough))].cpu().numpy()
    return picks.cpu().numpy()
