"""The public face of the neighbour search."""

import numbers

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from skanomaly._memory import parse_memory
from skanomaly.neighbors._exact import ENGINES, ExactSearch, thread_count

_METHODS = ("exact", "pynndescent")
# Squares of larger numbers, summed over the columns, might leave the range of float32.
LARGEST = 1e16


class PatchIndex(BaseEstimator):
    """Nearest rows of a bank by Euclidean distance.

    The answer for a query is a property of the query and the rows alone: it does not depend on
    the other queries of the call, on ``engine``, ``n_jobs`` or ``memory_limit``. Distances are sums
    of squared differences of the rows themselves, so identical rows are at distance 0 and data
    far from the origin lose nothing; of equally distant rows the one with the lower index is first.

    Parameters
    ----------
    method : {"exact", "pynndescent"}, default="exact"
        "pynndescent" searches a graph of neighbours and may miss some of the nearest rows. Its
        distances are those of the rows it found.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where the exact search multiplies matrices; "auto" is "cuda" where there is one.
    memory_limit : int, str or None, default=None
        Bound of the working buffers in bytes or as "500MB" or "4GB". The rows, what is prepared
        from them once and the result are not counted.
    n_jobs : int or None, default=None
        Threads; -1 for all processors. None means as many as numba is set to, which is all
        processors unless ``NUMBA_NUM_THREADS`` or joblib says otherwise.
    engine : {"auto", "plain", "float32", "int8"}, default="auto"
        How the exact search finds the rows worth measuring: by one matrix product over all
        columns, or by short vectors compared in float32 or 8-bit integers. "auto" decides by size
        and machine, and goes back to the plain product for queries where a screen does not pay.
    random_state : int, RandomState instance or None, default=None
        Draws the graph of "pynndescent".
    verbose : int, default=0
        From 1 on, each search is logged to the logger "skanomaly" at level INFO.

    Attributes
    ----------
    rows_ : ndarray of shape (n_rows, d), float32
        The rows; not a copy where they came as a C-contiguous, writeable float32 array.
    origin_ : ndarray of shape (d,), float64, or None
        Subtracted in float64 before rows and queries are cast to float32. None for float32 rows.
    n_features_in_ : int
        d, numbers per row.

    Notes
    -----
    Short vectors (coordinates along principal axes and the length of the rest) are never farther
    apart than the rows. So few of the rows need measuring where the data have some structure.
    A pickle holds the rows and the parameters; everything else is prepared again on first use.
    "auto" takes 8-bit integers only where the processor is fast at them and torch is imported.

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
        """Keep the rows.

        Parameters
        ----------
        rows : array-like of shape (n_rows, n_features)
            Float32 rows are compared as they are; others are cast to float32 after their mean
            has been subtracted in float64.
        y : Ignored
            Not used, present by convention.

        Returns
        -------
        PatchIndex
            The index itself.

        Raises
        ------
        ValueError
            If a parameter is out of its range or rows are not a finite matrix.
        """
        self._check_parameters()
        rows = _check_matrix(rows, "rows")
        self.n_features_in_ = rows.shape[1]
        self.origin_ = None if rows.dtype == np.float32 else rows.mean(axis=0)
        self.rows_ = self._to_rows(rows)
        # The graph is drawn from this: the same one again when it is rebuilt from a pickle.
        self._seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        self._search = None
        return self

    def kneighbors(self, queries, n_neighbors=1):
        """Find the nearest rows of each query.

        Parameters
        ----------
        queries : array-like of shape (n_queries, d)
            Not written to.
        n_neighbors : int, default=1

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors), float32
            Euclidean, nearest first.
        indices : ndarray of shape (n_queries, n_neighbors), int64
            Row numbers.

        Raises
        ------
        ValueError
            If there are fewer rows than neighbours, or queries are not a finite matrix with as
            many columns as the rows.
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
                f"got {n_neighbors!r}. Fit more rows or ask for fewer neighbours."
            )
        if self._search is None:
            self._search = self._prepare()
        squared, indices = self._search.search(queries, int(n_neighbors), self._to_rows)
        return np.sqrt(squared, out=squared), indices

    def _check_parameters(self):
        """Refuse what cannot be used before any work is done."""
        for name, allowed in (("method", _METHODS), ("engine", ENGINES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}; got {getattr(self, name)!r}.")
        parse_memory(self.memory_limit)
        thread_count(self.n_jobs)

    def _to_rows(self, matrix):
        """Float32 rows that may be compared; a copy unless nothing has to be done."""
        if self.origin_ is not None:
            matrix = matrix - self.origin_
        # Writeable: otherwise all loops would be compiled once more, for read-only arrays.
        return np.require(matrix, np.float32, ["C", "W"])

    def _prepare(self):
        """The search; whatever it builds is not kept in a pickle."""
        if self.method == "pynndescent":
            from skanomaly.neighbors._approximate import ApproximateSearch

            random_state = np.random.RandomState(self._seed)
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
        """Parameters and rows: what is prepared from them is prepared again on first use."""
        state = super().__getstate__()
        return {**state, "_search": None} if "_search" in state else state


def _check_matrix(matrix, name):
    """A finite matrix, float32 or float64, of numbers whose squares fit float32."""
    matrix = check_array(
        matrix, dtype=[np.float32, np.float64], ensure_all_finite=False, input_name=name
    )
    largest = max(matrix.max(), -matrix.min())  # NaN where there is one
    if not np.isfinite(largest):
        check_array(matrix, input_name=name)  # raises, and says which
    if largest > LARGEST:
        raise ValueError(
            f"{name} must not exceed {LARGEST:g} in magnitude; got {largest:g}. Rescale them."
        )
    return matrix


def _device(name):
    """Device for matrix products, None for this processor."""
    if name == "cpu":
        return None
    import torch

    has_cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda") if has_cuda else None
    device = torch.device(name)
    if device.type == "cuda" and not has_cuda:
        raise ValueError(f'device={name!r} is not there; use device="auto" or "cpu".')
    return device
