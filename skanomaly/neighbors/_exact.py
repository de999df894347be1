"""Which exact search to use, for which queries, in how many threads and how much memory.

None of it touches the answer: all searches measure the rows that come into question in the same
way, and each query is answered by itself.
"""

import functools
import logging
import sys

import joblib
import numba
import numpy as np
from sklearn.utils import gen_batches

from skanomaly._threads import lone_threads
from skanomaly.neighbors._plain import PlainSearch, search_some
from skanomaly.neighbors._screened import ScreenedSearch

logger = logging.getLogger("skanomaly")

ENGINES = ("auto", "plain", "float32", "int8")

# Below these sizes, measured on real features, a plain matrix product is faster than any screen.
_SCREEN_ROWS = 500
_SCREEN_NUMBERS = 128_000
# A screen takes as long to prepare as a plain search for so many queries, and for a bank of few
# rows, where finding the axes is most of it, for more.
_SCREEN_QUERIES = 700
_AXES_QUERIES = 1_000_000
_LONGEST_REST = 63
_CHUNK_QUERIES = 2_048
_SMALLEST_CHUNK = 16
# A table of products of this size stays in the cache.
_TABLE_BYTES = 8 << 20
_SMALLEST_TABLE = 64 << 10
# A chunk takes about four times its own size: cast, centred, shortened, and what is on the way.
_CHUNK_COPIES = 4


class ExactSearch:
    """Exact search that prepares what pays.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32
    engine : {"auto", "plain", "float32", "int8"}
    device : torch device or None
        Where to multiply matrices; None for this processor.
    n_threads : int
    memory : int or None
        Bytes for working buffers.
    verbose : int
    """

    def __init__(self, rows, *, engine, device, n_threads, memory, verbose):
        self.rows = rows
        self.engine = engine
        self.device = device
        self.verbose = verbose
        self.n_chunk, self.n_bytes, self.n_threads = chunk_sizes(memory, n_threads, rows.shape[1])
        self._n_seen = 0
        self._screen = None
        self._rest = Rest()

    def search(self, queries, n_neighbors, to_rows):
        """Squared distances (n, k) float32 and rows (n, k) int64, nearest first.

        ``to_rows`` turns a chunk of the queries into float32 rows that may be compared.
        """
        nearest = np.full((len(queries), n_neighbors), np.inf, dtype=np.float32)
        ids = np.full((len(queries), n_neighbors), -1, dtype=np.int64)

        def answer(part):
            self._answer(screen, to_rows(queries[part]), nearest[part], ids[part])

        n_chunk = min(self.n_chunk, -(-len(queries) // self.n_threads))
        chunks = list(gen_batches(len(queries), max(n_chunk, _SMALLEST_CHUNK)))
        with lone_threads(min(self.n_threads, len(chunks))) as pool:
            screen = self._screen_for(len(queries))
            list(pool.map(answer, chunks))  # list: raises what a thread has raised
        return nearest, ids

    def _answer(self, screen, queries, nearest, ids):
        """Fill the lists of one chunk; what the screen leaves open is searched plainly."""
        left = np.ones(len(queries), dtype=bool)
        if screen is not None and self._rest.is_over():
            left = ~screen.search(queries, nearest, ids, self.n_bytes)
            self._rest.after(was_useless=left.all())
        if left.any():
            search_some(self._plain, left, queries, nearest, ids, self.n_bytes)

    @functools.cached_property
    def _plain(self):
        return PlainSearch(self.rows)

    def _screen_for(self, n_queries):
        """The search to try first, built when it pays; None for the plain one."""
        self._n_seen += n_queries
        if self._screen is None and self._pays():
            self._screen = self._build()
        if self.verbose:
            name = "plain" if self._screen is None else self._screen.name
            logger.info(
                "exact search (%s): %d queries, %d rows of %d columns, %d threads",
                name, n_queries, *self.rows.shape, self.n_threads,
            )  # fmt: skip
        return self._screen

    def _pays(self):
        """Whether to build a screen, all queries seen so far considered."""
        if self.engine != "auto" or self.device is not None:
            return self.engine != "plain"
        n_rows = len(self.rows)
        is_large = n_rows >= _SCREEN_ROWS and self.rows.size >= _SCREEN_NUMBERS
        return is_large and self._n_seen >= _SCREEN_QUERIES + _AXES_QUERIES / n_rows

    def _build(self):
        """The screen for these rows and this machine."""
        if self.device is not None:
            from skanomaly.neighbors._device import DeviceSearch

            return DeviceSearch(self.rows, self.device)
        return ScreenedSearch(screen_type(self.engine), self.rows)


class Rest:
    """How often a screen is left out: after each use in vain twice as often as the last time."""

    def __init__(self):
        self._length = self._left = 0

    def is_over(self):
        """Whether the screen's turn has come; asked once for each chunk."""
        self._left -= 1
        return self._left < 0

    def after(self, *, was_useless):
        """Take note of a turn of the screen."""
        self._length = min(2 * self._length + 1, _LONGEST_REST) if was_useless else 0
        self._left = self._length


def screen_type(engine):
    """The class of screens for this machine."""
    if engine == "int8" or (engine == "auto" and _has_fast_int8()):
        from skanomaly.neighbors._int8 import Int8Screen

        return Int8Screen
    from skanomaly.neighbors._float32 import Float32Screen

    return Float32Screen


def _has_fast_int8():
    """Whether the 8-bit screen is the faster one here; importing torch would cost more than it."""
    if "torch" not in sys.modules:
        return False
    from skanomaly.neighbors._int8 import is_exact, is_fast

    return is_exact() and is_fast()


def thread_count(n_jobs):
    """Threads for a parameter ``n_jobs``; None: as many as numba is set to."""
    return numba.get_num_threads() if n_jobs is None else joblib.effective_n_jobs(n_jobs)


def chunk_sizes(memory, n_threads, n_features):
    """Queries of a chunk, bytes of a table, and threads that fit the memory."""
    bytes_per_query = 4 * n_features * _CHUNK_COPIES
    if memory is None:
        return _CHUNK_QUERIES, _TABLE_BYTES, n_threads
    least = 2 * max(_SMALLEST_CHUNK * bytes_per_query, _SMALLEST_TABLE)
    if memory < least:
        raise ValueError(
            f"memory_limit must be at least {least} bytes for rows of {n_features} columns; "
            f"got {memory}. It bounds working buffers only, not the rows themselves."
        )
    n_threads = min(n_threads, memory // least)
    half = memory // n_threads // 2
    n_chunk = min(half // bytes_per_query, _CHUNK_QUERIES)
    return int(n_chunk), int(min(half, _TABLE_BYTES)), int(n_threads)
