"""Exact search with the matrix product on another device, such as a GPU.

The product says which rows may be among the nearest; they are measured on this processor by the
same function as everywhere, so the answer does not depend on the device.
"""

import contextlib

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.neighbors._kernels import measure
from skanomaly.neighbors._plain import rounding

# Rows kept for measuring beyond those asked for. Where more come into question, the plain search
# takes over.
_SPARE = 16
_TILE_QUERIES = 4_096
_PART_ROWS = 65_536


class DeviceSearch:
    """The rows about their mean, on the device.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32
    device : torch device or its name
    """

    name = "device"

    def __init__(self, rows, device):
        import torch

        self.rows = rows
        self.device = device
        self.mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = rows - self.mean
        norms = np.einsum("ij,ij->i", centred, centred, dtype=np.float64)
        self.longest = np.sqrt(norms.max())
        self.centred = torch.from_numpy(centred).to(device)
        self.half_norms = torch.from_numpy((norms / 2).astype(np.float32)).to(device)

    def search(self, queries, nearest, ids, n_bytes):
        """Fill the lists (n, k) of squared distances and rows; which queries were answered.

        ``n_bytes`` is for this processor; on the device a tile of products takes up to 1 GB.
        """
        answered = np.zeros(len(queries), dtype=bool)
        with _full_float32():
            for tile in gen_batches(len(queries), _TILE_QUERIES):
                values, columns, error = self._candidates(queries[tile], nearest.shape[1])
                # All that come into question are there if the last of them does not.
                k = nearest.shape[1]
                is_complete = values[:, -1] > values[:, k - 1] + 2 * error
                answered[tile] = is_complete | (values.shape[1] == len(self.rows))
                measure(columns, answered[tile], queries[tile], self.rows, nearest[tile], ids[tile])
        return answered

    def _candidates(self, queries, n_neighbors):
        """Values and rows of smallest value, (n, k + spare), ascending; error of values, (n,)."""
        import torch

        centred = queries - self.mean
        norms = np.einsum("ij,ij->i", centred, centred, dtype=np.float64)
        error = rounding(queries.shape[1]) * (np.sqrt(norms) + self.longest) ** 2
        centred = torch.from_numpy(centred).to(self.device)
        n_kept = min(n_neighbors + _SPARE, len(self.rows))
        values = torch.empty((len(queries), 0), device=self.device)
        columns = torch.empty((len(queries), 0), dtype=torch.int64, device=self.device)
        for part in gen_batches(len(self.rows), _PART_ROWS):
            table = self.half_norms[part] - centred @ self.centred[part].T  # (queries, rows)
            best = table.topk(min(n_kept, table.shape[1]), largest=False)
            values = torch.cat([values, best.values], dim=1)
            columns = torch.cat([columns, best.indices + part.start], dim=1)
            best = values.topk(min(n_kept, values.shape[1]), largest=False)
            values, columns = best.values, columns.gather(1, best.indices)
        return values.cpu().numpy(), columns.cpu().numpy(), error


@contextlib.contextmanager
def _full_float32():
    """No rounding of factors to fewer bits inside, whatever the application prefers."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
