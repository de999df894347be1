"""Exact search with the matrix product on another device, such as a GPU.

The product tells which rows may be among the nearest. Their distances are computed on the CPU by
the same function as in the other searches, so the result does not depend on the device.
"""

from functools import partial

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.neighbors._distance_kernels import measure
from skanomaly.neighbors._plain import rounding
from skanomaly.utils.threads import SharedSetting

# Candidates beyond the neighbors requested. Queries that have more of them are left to the plain
# search.
_SPARE = 16
_TILE_QUERIES = 4_096
_PART_ROWS = 65_536


class DeviceSearch:
    """Rows relative to their mean, on the device.

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
        centered = rows - self.mean
        norms = np.einsum("ij,ij->i", centered, centered, dtype=np.float64)
        self.longest = np.sqrt(norms.max())
        self.centered = torch.from_numpy(centered).to(device)
        # Norms are summed in float64 and rounded once.
        self.half_norms = torch.from_numpy((norms / 2).astype(np.float32)).to(device)

    def search(self, queries, nearest, ids, n_bytes):
        """Fill the lists (n, k) of squared distances and of indices; which queries are done.

        ``n_bytes`` limits memory of the CPU and is ignored: on the device a tile of products takes
        up to 1 GB.
        """
        is_done = np.zeros(len(queries), dtype=bool)
        with _FULL_FLOAT32:
            for tile in gen_batches(len(queries), _TILE_QUERIES):
                values, columns, error = self._candidates(queries[tile], nearest.shape[1])
                # No row is missing if even the last candidate is too far, despite rounding.
                k = nearest.shape[1]
                is_complete = values[:, -1] > values[:, k - 1] + 2 * error
                is_done[tile] = is_complete | (values.shape[1] == len(self.rows))
                measure(columns, is_done[tile], queries[tile], self.rows, nearest[tile], ids[tile])
        return is_done

    def _candidates(self, queries, n_neighbors):
        """The k + spare smallest values and their rows, (n, k + spare); error of values, (n,).

        A value is half the squared distance minus half the squared norm of the query.
        """
        import torch

        centered = queries - self.mean
        norms = np.einsum("ij,ij->i", centered, centered, dtype=np.float64)
        error = rounding(queries.shape[1]) * (np.sqrt(norms) + self.longest) ** 2
        centered = torch.from_numpy(centered).to(self.device)
        n_kept = min(n_neighbors + _SPARE, len(self.rows))
        values = torch.empty((len(queries), 0), device=self.device)
        columns = torch.empty((len(queries), 0), dtype=torch.int64, device=self.device)
        # The best of each part are merged with the best so far, so that few values are kept.
        for part in gen_batches(len(self.rows), _PART_ROWS):
            table = self.half_norms[part] - centered @ self.centered[part].T  # (queries, rows)
            best = table.topk(min(n_kept, table.shape[1]), largest=False)
            values = torch.cat([values, best.values], dim=1)
            columns = torch.cat([columns, best.indices + part.start], dim=1)
            best = values.topk(min(n_kept, values.shape[1]), largest=False)
            values, columns = best.values, columns.gather(1, best.indices)
        return values.cpu().numpy(), columns.cpu().numpy(), error


def _without_tensor_float_32():
    """Set full precision, whatever the application has set; returns a function that undoes it."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    return partial(torch.set_float32_matmul_precision, before)


_FULL_FLOAT32 = SharedSetting(_without_tensor_float_32)
