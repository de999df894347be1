"""Nearest neighbors among the rows of one bank."""

import numbers

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from skanomaly.neighbors._exact_search import ENGINES, ExactSearch, thread_count
from skanomaly.utils.device import resolve_device
from skanomaly.utils.memory_budget import parse_memory
from skanomaly.utils.threads import ForkSafeLock

_PREPARING = ForkSafeLock()  # of the threads that prepare a search
_METHODS = ("exact", "pynndescent")
# Sums of squares of larger numbers may exceed the range of float32.
LARGEST = 1e16


class PatchIndex(BaseEstimator):
    """Nearest rows of a bank by Euclidean distance.

    The result for a query depends on the query and the rows only, not on the other queries in the
    call, ``engine``, ``n_jobs`` or ``memory_limit``. Distances are computed from the differences of
    the rows themselves, so identical rows are at distance 0 and data far from the origin lose no
    precision. Of equally distant rows the one with the lower index comes first.

    Parameters
    ----------
    method : {"exact", "pynndescent"}, default="exact"
        "pynndescent" searches a graph of neighbors and may miss some of the nearest rows. The
        distances of the rows found are exact.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where the exact search multiplies matrices; "auto" is "cuda" if there is one.
    memory_limit : int, str or None, default=None
        Limit of the working buffers, in bytes or as "500MB" or "4GB". The rows, what is prepared
        from them once and the result are not counted.
    n_jobs : int or None, default=None
        Number of threads; -1 for all processors. None means as many as numba is set to: all
        processors, unless ``NUMBA_NUM_THREADS`` or joblib is set otherwise.
    engine : {"auto", "plain", "float32", "int8"}, default="auto"
        How the exact search finds candidates: by one matrix product over all columns, or by short
        vectors compared in float32 or as 8-bit integers. "auto" chooses by size and machine, and
        returns to the plain product for queries for which short vectors are no faster.
    random_state : int, RandomState instance or None, default=None
        Draws the graph of "pynndescent".
    verbose : int, default=0
        If positive, each search is logged to the logger "skanomaly" at level INFO.

    Attributes
    ----------
    rows_ : ndarray of shape (n_rows, n_features), float32
        The rows; not a copy if they were passed as a C-contiguous, writeable float32 array.
    origin_ : ndarray of shape (n_features,), float64, or None
        Subtracted in float64 before rows and queries are cast to float32. None for float32 rows.
    seed_ : int
        Seed of the graph of "pynndescent", drawn from ``random_state``.
    n_features_in_ : int
        Number of columns of the rows.

    See Also
    --------
    GalleryIndex : Neighbors among the rows of chosen images, different ones for each query.

    Notes
    -----
    Two short vectors (coordinates along principal axes and the length of the rest) are never
    farther apart than their rows. If the data have some structure, the distances of few rows have
    to be computed. A pickle holds the parameters and the rows; everything else is prepared again on
    first use. "auto" uses 8-bit integers if the processor has dot products of bytes (AVX-512 VNNI
    or AVX-VNNI); "int8" raises RuntimeError on others.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.neighbors import PatchIndex
    >>> index = PatchIndex().fit(np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]))
    >>> distances, indices = index.kneighbors(np.array([[0.0, 1.0]]), n_neighbors=2)
    >>> indices
    array([[0, 1]])
    >>> distances.round(3)
    array([[1.   , 4.243]], dtype=float32)
    """

    # Prepared from the rows on first use, and left out of pickles.
    _transient = ("_search",)
    _search = None

    def __init__(
        self,
        method="exact",
        *,
        device="cpu",
        memory_limit=None,
        n_jobs=None,
        engine="auto",
        random_state=None,
        verbose=0,
    ):
        self.method = method
        self.device = device
        self.memory_limit = memory_limit
        self.n_jobs = n_jobs
        self.engine = engine
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, rows, y=None):
        """Store the rows.

        Parameters
        ----------
        rows : array-like of shape (n_rows, n_features)
            Float32 rows are compared as they are; others are cast to float32 after their mean
            has been subtracted in float64.
        y : Ignored
            Not used, present by convention.

        Returns
        -------
        self : PatchIndex

        Raises
        ------
        ValueError
            If a parameter is out of its range, or ``rows`` is not a matrix of finite numbers.
        """
        self._check_parameters()
        rows = _check_matrix(rows, "rows")
        self.n_features_in_ = rows.shape[1]
        self.origin_ = None if rows.dtype == np.float32 else rows.mean(axis=0)
        self.rows_ = self._to_rows(rows)
        # Drawn now, so that a graph that is built again after unpickling is the same one.
        self.seed_ = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        self._search = None
        return self

    def kneighbors(self, queries, n_neighbors=1):
        """Find the nearest rows of each query.

        Parameters
        ----------
        queries : array-like of shape (n_queries, n_features)
            They are never modified.
        n_neighbors : int, default=1
            Number of rows to find for each query.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors), float32
            Euclidean, nearest first.
        indices : ndarray of shape (n_queries, n_neighbors), int64
            Indices of the rows.

        Raises
        ------
        ValueError
            If there are fewer rows than ``n_neighbors``, or ``queries`` is not a matrix of finite
            numbers with as many columns as the rows.
        """
        check_is_fitted(self)
        queries = _check_matrix(queries, "queries")
        if queries.shape[1] != self.n_features_in_:
            raise ValueError(
                f"queries must have as many columns as the rows of fit, {self.n_features_in_}; "
                f"got shape {queries.shape}. Use the same features for both."
            )
        is_count = isinstance(n_neighbors, numbers.Integral) and not isinstance(n_neighbors, bool)
        if not is_count or not 1 <= n_neighbors <= len(self.rows_):
            raise ValueError(
                f"n_neighbors must be an integer from 1 to the number of rows, {len(self.rows_)}; "
                f"got {n_neighbors!r}. Fit more rows or ask for fewer neighbors."
            )
        squared, indices = self._prepared().search(queries, int(n_neighbors), self._to_rows)
        return np.sqrt(squared, out=squared), indices

    def _check_parameters(self):
        """Raise ValueError for parameters that cannot be used, before any work is done."""
        for name, allowed in (("method", _METHODS), ("engine", ENGINES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}; got {getattr(self, name)!r}.")
        parse_memory(self.memory_limit)
        thread_count(self.n_jobs)

    def _to_rows(self, matrix):
        """Float32 rows relative to the origin; copied only if necessary."""
        if self.origin_ is not None:
            matrix = matrix - self.origin_
        # Writeable, because numba compiles all loops once more for read-only arrays; and without
        # the class of a memory-mapped array, with which each call of a loop takes longer.
        return np.asarray(np.require(matrix, np.float32, ["C", "W"]))

    def _prepared(self):
        """The search over the rows, prepared by one of the threads that ask for it first."""
        search = self._search
        if search is None:
            with _PREPARING:
                search = self._search = self._search or self._prepare()
        return search

    def _prepare(self):
        """The search over the rows, as the parameters are now."""
        if self.method == "pynndescent":
            from skanomaly.neighbors._approximate import ApproximateSearch

            random_state = np.random.RandomState(self.seed_)
            return ApproximateSearch(
                self.rows_, random_state=random_state, n_threads=thread_count(self.n_jobs)
            )
        return ExactSearch(
            self.rows_,
            engine=self.engine,
            device=_device(self.device),
            n_threads=thread_count(self.n_jobs),
            memory=parse_memory(self.memory_limit),
            verbose=self.verbose,
        )

    def __getstate__(self):
        state = dict(super().__getstate__())  # at once: another thread may be preparing
        return {name: value for name, value in state.items() if name not in self._transient}


def _check_matrix(matrix, name):
    """The matrix as float32 or float64, if it is finite and its squares fit float32."""
    # What is a matrix already is not asked for twice: of one image that takes as long as a product.
    is_matrix = type(matrix) is np.ndarray and matrix.ndim == 2 and matrix.size > 0
    if not is_matrix or matrix.dtype not in (np.float32, np.float64):
        matrix = check_array(
            matrix, dtype=[np.float32, np.float64], ensure_all_finite=False, input_name=name
        )
    largest = max(matrix.max(), -matrix.min())  # NaN if there is one
    if not np.isfinite(largest):
        check_array(matrix, input_name=name)  # raises, naming NaN or infinity
    if largest > LARGEST:
        raise ValueError(
            f"{name} must not exceed {LARGEST:g} in magnitude; got {largest:g}. Rescale them."
        )
    return matrix


def _device(name):
    """Device for matrix products; None for the CPU."""
    if name == "cpu":
        return None
    found = resolve_device(name)
    return None if found.type == "cpu" else found
