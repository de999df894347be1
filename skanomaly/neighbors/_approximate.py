"""Approximate search: a graph of neighbours by pynndescent, its distances measured afresh."""

import numpy as np

from skanomaly.neighbors._kernels import measure
from skanomaly.neighbors._plain import PlainSearch

# With fewer rows a graph has nothing to gain.
_FEWEST_ROWS = 512
_GRAPH_NEIGHBORS = 30
# The walk through the graph keeps as many rows as it is asked for: with few it strays.
_FEWEST_ASKED = 10
_PLAIN_BYTES = 8 << 20


class ApproximateSearch:
    """A graph over the rows, ready for queries.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32
    random_state : RandomState
        Draws the graph; the same state gives the same graph.
    n_threads : int
    """

    name = "pynndescent"

    def __init__(self, rows, *, random_state, n_threads):
        self.rows = rows
        self.plain = PlainSearch(rows)
        self.graph = None
        if len(rows) >= _FEWEST_ROWS:
            from pynndescent import NNDescent

            self.graph = NNDescent(
                rows,
                n_neighbors=_GRAPH_NEIGHBORS,
                random_state=random_state,
                n_jobs=n_threads,
                parallel_batch_queries=n_threads > 1,
            )
            self.graph.prepare()

    def search(self, queries, n_neighbors, to_rows):
        """Squared distances (n, k) float32 and rows (n, k) int64, nearest first."""
        queries = to_rows(queries)
        nearest = np.full((len(queries), n_neighbors), np.inf, dtype=np.float32)
        ids = np.full((len(queries), n_neighbors), -1, dtype=np.int64)
        found = np.zeros(len(queries), dtype=bool)
        if self.graph is not None:
            columns, _ = self.graph.query(queries, k=max(n_neighbors, _FEWEST_ASKED))
            found = (columns >= 0).all(axis=1)  # the graph may fail to find enough rows
            measure(columns.astype(np.int64), found, queries, self.rows, nearest, ids)
        if not found.all():
            left = ~found
            left_nearest, left_ids = nearest[left], ids[left]
            self.plain.search(queries[left], left_nearest, left_ids, _PLAIN_BYTES)
            nearest[left], ids[left] = left_nearest, left_ids
        return nearest, ids
