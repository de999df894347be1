"""Nearest neighbors among the rows of chosen images, different ones for each query image."""

import numbers

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted

from skanomaly.neighbors._exact_search import (
    ENGINES,
    Backoff,
    chunk_sizes,
    screen_type,
    thread_count,
)
from skanomaly.neighbors._index import LARGEST
from skanomaly.neighbors._plain import PlainSearch, search_some
from skanomaly.utils.memory_budget import parse_memory
from skanomaly.utils.threads import ForkSafeLock, single_threaded_pool

_PREPARING = ForkSafeLock()  # of the threads that prepare a screen
_SAMPLE_ROWS = 20_000
_USEFUL = 0.5  # share of the queries that a screen is to decide


class GalleryIndex(BaseEstimator):
    """Exact distances to the nearest rows of a gallery of images.

    The rows of each image are prepared once; the images that form its gallery are passed with each
    query. The rows of a gallery are never copied together: its images are searched one by one.

    Parameters
    ----------
    memory_limit : int, str or None, default=None
        Limit of the working buffers, in bytes or as "500MB". The rows, what is prepared from them,
        the result and, for float16 rows, the rows of one image per thread are not counted.
    n_jobs : int or None, default=None
        Number of threads; -1 for all processors. None: as many as numba is set to.
    engine : {"auto", "plain", "float32", "int8"}, default="auto"
        As for :class:`PatchIndex`. The result does not depend on it.

    Attributes
    ----------
    rows_ : ndarray of shape (n_images, n_rows, n_features), float32 or float16
        The rows, not copied.

    See Also
    --------
    PatchIndex : Neighbors among the rows of one bank for all queries.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.neighbors import GalleryIndex
    >>> rows = np.array([[[0.0], [1.0]], [[5.0], [6.0]], [[8.0], [9.0]]], dtype=np.float32)
    >>> index = GalleryIndex().fit(rows)
    >>> queries = np.array([[[4.0]], [[4.0]]], dtype=np.float32)
    >>> index.distances(queries, images=[[0, 2], [1, 2]])  # the first excludes 5.0
    array([[[3.]],
    <BLANKLINE>
           [[1.]]], dtype=float32)
    """

    # Prepared from the rows on first use, and left out of pickles.
    _transient = ("_screens",)
    _screens = None  # tuple of _ScreenOfAll, the faster one first; None: not prepared yet

    def __init__(self, *, memory_limit=None, n_jobs=None, engine="auto"):
        self.memory_limit = memory_limit
        self.n_jobs = n_jobs
        self.engine = engine

    def fit(self, rows, y=None):
        """Store the rows.

        Parameters
        ----------
        rows : ndarray of shape (n_images, n_rows, n_features), float32 or float16
            Float16 rows are converted to float32 when they are compared.
        y : Ignored
            Not used, present by convention.

        Returns
        -------
        self : GalleryIndex

        Raises
        ------
        ValueError
            If a parameter is out of its range, or ``rows`` has another shape or dtype or is not
            finite.
        """
        if self.engine not in ENGINES:
            raise ValueError(f"engine must be one of {ENGINES}; got {self.engine!r}.")
        parse_memory(self.memory_limit)
        if rows.ndim != 3 or 0 in rows.shape or rows.dtype not in (np.float32, np.float16):
            raise ValueError(
                "rows must have shape (n_images, n_rows, n_features), none of them 0, and dtype "
                f"float32 or float16; got shape {rows.shape}, dtype {rows.dtype}."
            )
        for image in rows:
            _check_numbers(image, "rows")
        self.rows_ = rows
        self._screens = None
        return self

    def distances(self, queries, images, n_neighbors=1):
        """Distances to the nearest rows of the gallery of each query image.

        Parameters
        ----------
        queries : ndarray of shape (b, q, n_features), float32
            The q rows of each of b query images.
        images : array-like of shape (b, K), int
            For each query image, the indices of the K images that form its gallery.
        n_neighbors : int, default=1
            Number of rows to find for each query.

        Returns
        -------
        ndarray of shape (b, q, n_neighbors), float32
            Euclidean, nearest first.

        Raises
        ------
        ValueError
            If a gallery has fewer rows than ``n_neighbors``, the queries have other columns than
            the rows or are not finite, or an image does not exist.
        """
        check_is_fitted(self)
        images = np.asarray(images)
        _, n_rows, n_features = self.rows_.shape
        if queries.ndim != 3 or queries.shape[2] != n_features:
            raise ValueError(
                f"queries must have shape (b, q, {n_features}), the columns of fit; "
                f"got shape {queries.shape}."
            )
        _check_numbers(queries, "queries")
        n_images = len(self.rows_)
        is_list = images.ndim == 2 and len(images) == len(queries) and images.dtype.kind in "iu"
        if not is_list or images.size == 0 or images.min() < 0 or images.max() >= n_images:
            raise ValueError(
                f"images must be indices from 0 to {n_images - 1} of shape ({len(queries)}, K), "
                f"one gallery for each query image; got {images.dtype} of shape {images.shape}."
            )
        is_count = isinstance(n_neighbors, numbers.Integral) and n_neighbors >= 1
        if not is_count or n_neighbors > images.shape[1] * n_rows:
            raise ValueError(
                f"n_neighbors must be an integer from 1 to the number of rows of a gallery, "
                f"{images.shape[1]} x {n_rows}; got {n_neighbors!r}."
            )
        shape = (*queries.shape[:2], int(n_neighbors))
        nearest = np.full(shape, np.inf, dtype=np.float32)
        n_chunk, n_bytes, n_threads = chunk_sizes(
            parse_memory(self.memory_limit), thread_count(self.n_jobs), n_features
        )
        if len(queries) < n_threads:  # one image is split among threads
            n_chunk = min(n_chunk, -(-shape[1] // n_threads))
        n_chunk = -(-shape[1] // -(-shape[1] // n_chunk))  # chunks of about equal size
        tasks = [(i, part) for i in range(len(queries)) for part in gen_batches(shape[1], n_chunk)]

        def search(task):
            i, part = task
            self._search_images(queries[i, part], images[i], nearest[i, part], n_bytes)

        with single_threaded_pool(n_threads) as pool:
            self._prepare()
            list(pool.map(search, tasks))  # list: raises what a thread has raised
        return np.sqrt(nearest, out=nearest)

    def _search_images(self, queries, images, nearest, n_bytes):
        """Fill the lists (n, k) of some rows of one query image, one gallery image at a time."""
        # Writeable, because numba compiles all loops once more for read-only arrays.
        queries = np.require(queries, np.float32, ["C", "W"])
        ids = np.full(nearest.shape, -1, dtype=np.int64)  # within an image; only break ties
        prepared = {}  # of the queries, by screen
        for image in images:
            rows = np.asarray(np.require(self.rows_[image], np.float32, ["C", "W"]))
            left = np.ones(len(queries), dtype=bool)
            for one in self._screens:
                if left.any() and one.backoff.is_due():
                    if one not in prepared:
                        prepared[one] = one.prepare(queries, image, n_bytes)
                    left[left] = one.search(image, rows, left, queries, prepared[one], nearest, ids)
            if left.any():
                search_some(PlainSearch(rows), left, queries, nearest, ids, n_bytes)
            if left.mean() > 1 - _USEFUL and self.engine == "auto":
                self._add_screen()

    def _prepare(self):
        """The first screen of all images; it is not kept in a pickle."""
        if self._screens is None:
            with _PREPARING:
                if self._screens is None:
                    kinds = [] if self.engine == "plain" else [screen_type(self.engine)]
                    self._screens = tuple(map(self._new_screen, kinds))

    def _add_screen(self):
        """That of float32, when the 8-bit one leaves too much: galleries of unlike images."""
        kind = screen_type("float32")
        with _PREPARING:
            if not any(isinstance(one.screen, kind) for one in self._screens):
                self._screens += (self._new_screen(kind),)

    def _new_screen(self, kind):
        # The axes are learned from evenly spaced rows of all images.
        flat = self.rows_.reshape(-1, self.rows_.shape[2])
        sample = flat[:: -(-len(flat) // _SAMPLE_ROWS)].astype(np.float32)
        screen = kind(sample, is_lean=True)
        parts = [screen.add(rows.astype(np.float32, copy=False)) for rows in self.rows_]
        return _ScreenOfAll(screen, parts)

    def __getstate__(self):
        state = dict(super().__getstate__())  # at once: another thread may be preparing
        return {name: value for name, value in state.items() if name not in self._transient}


class _ScreenOfAll:
    """A screen, what it keeps of each image, and when it is used.

    Parameters
    ----------
    screen : Screen
    parts : list
        From ``screen.add``, of each image.
    """

    def __init__(self, screen, parts):
        self.screen, self.parts = screen, parts
        self.backoff = Backoff()  # of all queries: a gallery's images are alike, or they are not

    def prepare(self, queries, image, n_bytes):
        """Arrays with an entry per query, and memory, for the search in all images."""
        return self.screen.prepare(queries), self.screen.table(self.parts[image], n_bytes)

    def search(self, image, rows, some, queries, prepared, nearest, ids):
        """Search for the queries selected by a mask; which of these are left, a mask."""
        arrays, table = prepared
        lists = nearest[some], ids[some]
        arrays = [array[some] for array in arrays]
        is_done = self.screen.search(self.parts[image], rows, queries[some], arrays, *lists, table)
        nearest[some], ids[some] = lists
        self.backoff.record(was_useless=is_done.mean() < _USEFUL)
        return ~is_done


def _check_numbers(numbers_, name):
    """Raise ValueError for NaN, infinity, and numbers whose squares exceed float32."""
    largest = max(float(numbers_.max()), -float(numbers_.min()))
    if not largest <= LARGEST:  # so that NaN is refused too
        raise ValueError(
            f"{name} must be finite and at most {LARGEST:g} in magnitude; got {largest:g}. Rescale "
            "them, or store them as float32 if float16 overflows."
        )
