"""Which exact search to use for which queries, in how many threads and how much memory.

The result depends on none of it: all searches compute the distances of the candidates in the same
way, and each query is searched independently of the others.
"""

import functools
import logging

import numba
import numpy as np
from sklearn.utils import gen_batches

from skanomaly.neighbors._byte_products import register_bits
from skanomaly.neighbors._float32 import Float32Screen
from skanomaly.neighbors._int8 import Int8Screen
from skanomaly.neighbors._plain import PlainSearch, search_some
from skanomaly.neighbors._screened import ScreenedSearch
from skanomaly.utils.threads import ForkSafeLock, count_threads, single_threaded_pool

logger = logging.getLogger("skanomaly")

_BUILDING = ForkSafeLock()  # of the threads that build a screen
ENGINES = ("auto", "plain", "float32", "int8")

# Below these sizes, measured on real features, a plain matrix product is faster than any screen.
_SCREEN_ROWS = 500
_SCREEN_NUMBERS = 128_000
# Preparing a screen takes as long as a plain search for this many queries, and more of them for a
# bank of few rows, where finding the axes takes most of the time.
_SCREEN_QUERIES = 700
_AXES_QUERIES = 1_000_000
_MAX_SKIPPED = 63  # chunks
_CHUNK_QUERIES = 2_048
_MIN_CHUNK = 16
# A table of products of this size stays in the cache.
_TABLE_BYTES = 8 << 20
_MIN_TABLE = 64 << 10
# A chunk takes about four times its own size: cast, centered, shortened, and temporary arrays.
_CHUNK_COPIES = 4


class ExactSearch:
    """Exact search that prepares a screen once there are enough queries for it.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32
    engine : {"auto", "plain", "float32", "int8"}
    device : torch device or None
        Where to multiply matrices; None for the CPU.
    n_threads : int
    memory : int or None
        Bytes for working buffers; None: not limited.
    verbose : int
        If positive, each search is logged.
    """

    def __init__(self, rows, *, engine, device, n_threads, memory, verbose):
        self.rows = rows
        self.engine = engine
        self.device = device
        self.verbose = verbose
        self.n_chunk, self.n_bytes, self.n_threads = chunk_sizes(memory, n_threads, rows.shape[1])
        self._n_seen = 0
        self._screen = None
        self._backoff = Backoff()

    def search(self, queries, n_neighbors, to_rows):
        """Squared distances (n, k) float32 and indices of rows (n, k) int64, nearest first.

        ``to_rows`` turns a chunk of the queries into float32 rows that may be compared with those
        of the bank.
        """
        nearest = np.full((len(queries), n_neighbors), np.inf, dtype=np.float32)
        ids = np.full((len(queries), n_neighbors), -1, dtype=np.int64)

        def search_chunk(part):
            self._search_chunk(screen, to_rows(queries[part]), nearest[part], ids[part])

        n_chunk = min(self.n_chunk, -(-len(queries) // self.n_threads))
        chunks = list(gen_batches(len(queries), max(n_chunk, _MIN_CHUNK)))
        with single_threaded_pool(min(self.n_threads, len(chunks))) as pool:
            screen = self._screen_for(len(queries))
            list(pool.map(search_chunk, chunks))  # list: raises what a thread has raised
        return nearest, ids

    def _search_chunk(self, screen, queries, nearest, ids):
        """Fill the lists of one chunk; queries that the screen leaves are searched plainly."""
        left = np.ones(len(queries), dtype=bool)
        if screen is not None and self._backoff.is_due():
            left = ~screen.search(queries, nearest, ids, self.n_bytes)
            self._backoff.record(was_useless=left.all())
        if left.any():
            search_some(self._plain, left, queries, nearest, ids, self.n_bytes)

    @functools.cached_property
    def _plain(self):
        return PlainSearch(self.rows)

    def _screen_for(self, n_queries):
        """The screen to try first, prepared when that is worthwhile; None for plain search only."""
        self._n_seen += n_queries
        if self._screen is None and self._is_worthwhile():
            with _BUILDING:
                self._screen = self._screen or self._build()
        if self.verbose:
            name = "plain" if self._screen is None else self._screen.name
            logger.info(
                "exact search (%s): %d queries, %d rows of %d columns, %d threads",
                name, n_queries, *self.rows.shape, self.n_threads,
            )  # fmt: skip
        return self._screen

    def _is_worthwhile(self):
        """Whether to prepare a screen, considering the queries of all calls so far."""
        if self.engine != "auto" or self.device is not None:
            return self.engine != "plain"
        n_rows = len(self.rows)
        is_large = n_rows >= _SCREEN_ROWS and self.rows.size >= _SCREEN_NUMBERS
        return is_large and self._n_seen >= _SCREEN_QUERIES + _AXES_QUERIES / n_rows

    def _build(self):
        """The screen for these rows, this device and this machine."""
        if self.device is not None:
            from skanomaly.neighbors._torch_search import DeviceSearch

            return DeviceSearch(self.rows, self.device)
        return ScreenedSearch(screen_type(self.engine), self.rows)


class Backoff:
    """Exponential backoff: useless uses of a screen double the number of chunks not screened."""

    def __init__(self):
        self._n_skipped = self._n_left = 0

    def is_due(self):
        """Whether to use the screen; called once for each chunk."""
        self._n_left -= 1
        return self._n_left < 0

    def record(self, *, was_useless):
        """Record whether a use of the screen was useless: it left all queries of the chunk."""
        self._n_skipped = min(2 * self._n_skipped + 1, _MAX_SKIPPED) if was_useless else 0
        self._n_left = self._n_skipped


def screen_type(engine):
    """The class of the screen for an engine, on this machine."""
    if engine == "int8" or (engine == "auto" and register_bits() > 0):
        return Int8Screen
    return Float32Screen


def thread_count(n_jobs):
    """Number of threads for the parameter ``n_jobs``; None: as many as numba is set to."""
    return count_threads(n_jobs, numba.get_num_threads())


def chunk_sizes(memory, n_threads, n_features):
    """Queries per chunk, bytes of a table and number of threads that fit ``memory`` bytes."""
    bytes_per_query = 4 * n_features * _CHUNK_COPIES
    if memory is None:
        return _CHUNK_QUERIES, _TABLE_BYTES, n_threads
    least = 2 * max(_MIN_CHUNK * bytes_per_query, _MIN_TABLE)
    if memory < least:
        raise ValueError(
            f"memory_limit must be at least {least} bytes for rows of {n_features} columns; "
            f"got {memory}. It limits working buffers only, not the rows themselves."
        )
    n_threads = min(n_threads, memory // least)
    half = memory // n_threads // 2
    n_chunk = min(half // bytes_per_query, _CHUNK_QUERIES)
    return int(n_chunk), int(min(half, _TABLE_BYTES)), int(n_threads)
