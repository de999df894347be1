"""Approximate search: pynndescent proposes neighbors, whose distances are then computed exactly."""

import os

import numba
import numpy as np

from skanomaly.neighbors._distance_kernels import measure
from skanomaly.neighbors._plain import PlainSearch, search_some

# With fewer rows the exact search is as fast.
_MIN_ROWS = 512
_GRAPH_NEIGHBORS = 30
# The walk through the graph keeps as many candidates as neighbors are requested: with few of them
# it ends in a local minimum.
_MIN_REQUESTED = 10
_PLAIN_BYTES = 8 << 20
# After a fork numba ends the process rather than compute in threads that were the parent's.
_PROCESS = os.getpid()


class ApproximateSearch:
    """Graph of neighbors over the rows.

    A process that was forked after the first use searches all rows instead where the graph would
    take threads.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32
    random_state : RandomState
        Draws the graph; the same state gives the same graph.
    n_threads : int
        Number of threads that build the graph and search it.
    """

    name = "pynndescent"

    def __init__(self, rows, *, random_state, n_threads):
        self.rows = rows
        self.plain = PlainSearch(rows)
        self.graph, self.takes_threads = None, n_threads > 1
        if len(rows) >= _MIN_ROWS and os.getpid() == _PROCESS:
            from pynndescent import NNDescent

            n_threads = min(n_threads, numba.config.NUMBA_NUM_THREADS)  # numba refuses more
            self.graph = NNDescent(
                rows,
                n_neighbors=_GRAPH_NEIGHBORS,
                random_state=random_state,
                n_jobs=n_threads,
                parallel_batch_queries=n_threads > 1,
            )
            self.graph.prepare()

    def search(self, queries, n_neighbors, to_rows):
        """Squared distances (n, k) float32 and indices of rows (n, k) int64, nearest first.

        ``to_rows`` turns the queries into float32 rows that may be compared with those of the bank.
        """
        queries = to_rows(queries)
        nearest = np.full((len(queries), n_neighbors), np.inf, dtype=np.float32)
        ids = np.full((len(queries), n_neighbors), -1, dtype=np.int64)
        is_complete = np.zeros(len(queries), dtype=bool)
        if self.graph is not None and (os.getpid() == _PROCESS or not self.takes_threads):
            columns, _ = self.graph.query(queries, k=max(n_neighbors, _MIN_REQUESTED))
            # -1 where the walk reached fewer rows than requested.
            is_complete = (columns >= 0).all(axis=1)
            measure(columns.astype(np.int64), is_complete, queries, self.rows, nearest, ids)
        if not is_complete.all():
            search_some(self.plain, ~is_complete, queries, nearest, ids, _PLAIN_BYTES)
        return nearest, ids
