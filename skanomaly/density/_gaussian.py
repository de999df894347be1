"""The public class: parameters, shapes, and which of the two forms holds the Gaussians."""

import threading

import numpy as np

from skanomaly.density._forms import BLOCK, LowRank, in_threads, parts

FEW_IMAGES = 16
_ONE_AT_A_TIME = threading.RLock()  # of the threads that ask for factors not yet computed


class PositionwiseGaussian:
    """Mean and covariance at every position of maps, learned in a stream.

    Parameters
    ----------
    epsilon : float, default=0.01
        Added to every variance. With fewer vectors than numbers in each it is what makes the
        covariance invertible.
    shrinkage : {"ledoit_wolf"} or None, default=None
        None: the unbiased covariance. "ledoit_wolf": at every position the covariance is drawn
        towards a multiple of the identity by Ledoit and Wolf's closed form.
    low_rank : {"auto"} or bool, default="auto"
        Whether to keep the vectors themselves instead of d x d matrices. "auto" keeps them while
        there are at most d / 2 of them per position. True: memory grows with every vector.
    updatable : bool, default=True
        False drops what only ``partial_fit`` needs once distances are asked for: in the dense
        form two thirds of the memory.

    Attributes
    ----------
    n_samples_seen_ : int
        Vectors per position so far.
    mean_ : ndarray of shape (h, w, d), float32
    form_ : {"dense", "low_rank"}

    Notes
    -----
    Sums are of double precision about the first batch's mean, so they neither lose digits nor
    grow with the number of maps. Factors are computed when distances are first asked for and
    kept in float32. Images are multiplied one by one, so that the answer for one does not depend
    on the others of its batch.

    References
    ----------
    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    Journal of Multivariate Analysis 88 (2004).

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.density import PositionwiseGaussian
    >>> maps = np.random.default_rng(0).normal(size=(50, 4, 3, 5))
    >>> gaussian = PositionwiseGaussian().partial_fit(maps[:20]).partial_fit(maps[20:])
    >>> gaussian.form_, gaussian.mahalanobis(maps[:2]).shape
    ('dense', (2, 4, 3))
    """

    def __init__(self, *, epsilon=0.01, shrinkage=None, low_rank="auto", updatable=True):
        self.epsilon = epsilon
        self.shrinkage = shrinkage
        self.low_rank = low_rank
        self.updatable = updatable
        self._state = None

    def fit(self, maps):
        """Learn from these maps alone.

        Parameters
        ----------
        maps : array of shape (n, h, w, d)

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            A parameter or the maps are not as described, or the maps hold NaN or infinity.
        """
        self._state = None
        return self.partial_fit(maps)

    def partial_fit(self, maps):
        """Learn from further maps.

        Parameters
        ----------
        maps : array of shape (b, h, w, d)

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            As for ``fit``; or the maps differ in shape from those before; or
            ``updatable=False`` has dropped the sums.
        """
        self._check_parameters()
        state = self._state
        maps = self._check_maps(maps, None if state is None else self._shape)
        vectors = maps.reshape(len(maps), -1, maps.shape[3])  # (b, cells, d)
        if state is None:
            origin = vectors.mean(axis=0, dtype=np.float64)
            state, self._shape = LowRank(origin), maps.shape[1:]
        elif state.is_closed:
            raise ValueError(
                "expected a Gaussian that may still learn, got one whose sums were dropped after "
                "its first distances; make it with updatable=True to add maps later"
            )
        if isinstance(state, LowRank) and not self._keeps_rows(state.n + len(maps)):
            state = state.as_dense()
        state.add(vectors)
        self._state, self._is_finished = state, False
        return self

    def finish(self):
        """Compute the factors now rather than when distances are first asked for.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            As ``mahalanobis``.
        """
        self._finished()
        return self

    def mahalanobis(self, maps):
        """Mahalanobis distance of every vector to the Gaussian of its position.

        Parameters
        ----------
        maps : array of shape (b, h, w, d)

        Returns
        -------
        ndarray of shape (b, h, w), float32
            Distances, not squared.

        Raises
        ------
        ValueError
            Fewer than 2 vectors per position were seen, a covariance is singular, or the maps
            are not as in ``partial_fit``.
        """
        state = self._finished()
        maps = self._check_maps(maps, self._shape)
        vectors = maps.reshape(len(maps), -1, maps.shape[3])  # (b, cells, d)
        squared = np.empty(vectors.shape[:2], dtype=np.float32)

        def measure(part):
            u = (vectors[:, part] - state.mean[part]).astype(np.float32)
            squared[:, part] = state.squared_distances(u, part)

        # A factor that is used once need not stay in the cache.
        block = BLOCK * max(1, FEW_IMAGES // len(maps))
        in_threads(measure, parts(*vectors.shape[1:], block))
        return np.sqrt(squared).reshape(maps.shape[:3])

    def covariance(self, row, column):
        """Covariance at one position, epsilon and shrinkage included, as scoring uses it.

        Parameters
        ----------
        row, column : int

        Returns
        -------
        ndarray of shape (d, d), float64
        """
        state = self._finished()
        return state.covariance(np.ravel_multi_index((row, column), self._shape[:2]))

    @property
    def n_samples_seen_(self):
        return self._learned().n

    @property
    def mean_(self):
        return self._finished().mean.reshape(self._shape).astype(np.float32)

    @property
    def form_(self):
        return "low_rank" if isinstance(self._learned(), LowRank) else "dense"

    def _keeps_rows(self, n):
        return n <= self._shape[2] // 2 if self.low_rank == "auto" else self.low_rank

    def _learned(self):
        if self._state is None:
            raise ValueError("expected a fitted PositionwiseGaussian; call fit or partial_fit")
        return self._state

    def _finished(self):
        """The state, ready to score."""
        state = self._learned()
        with _ONE_AT_A_TIME:
            if not self._is_finished:
                if state.n < 2:
                    raise ValueError(
                        "expected at least 2 vectors per position, for a covariance, got "
                        "n_samples=1; call partial_fit with more good images"
                    )
                state.finish(self.epsilon, self.shrinkage)
                self._is_finished = True
                if not self.updatable:
                    state.close()
        return state

    def _check_parameters(self):
        if not 0 <= self.epsilon < np.inf:
            raise ValueError(f"epsilon must be a number >= 0, got {self.epsilon}")
        if self.shrinkage not in (None, "ledoit_wolf"):
            raise ValueError(f"shrinkage must be None or 'ledoit_wolf', got {self.shrinkage!r}")
        if self.low_rank not in ("auto", True, False):
            raise ValueError(f"low_rank must be 'auto', True or False, got {self.low_rank!r}")

    def _check_maps(self, maps, shape):
        maps = np.asarray(maps, dtype=np.float32)
        if maps.ndim != 4 or 0 in maps.shape:
            raise ValueError(f"expected maps of shape (b, h, w, d), got shape {maps.shape}")
        if shape is not None and maps.shape[1:] != shape:
            raise ValueError(
                f"expected maps of shape (b, h, w, d) = (b, *{shape}), as in the "
                f"first partial_fit, got {maps.shape}"
            )
        if not np.isfinite(maps).all():
            raise ValueError("expected finite maps, got NaN or infinity")
        return maps
