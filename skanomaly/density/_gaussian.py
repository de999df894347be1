"""One Gaussian at every position: parameters, shapes, and the choice between the two forms."""

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from skanomaly.density._covariances import (
    BLOCK,
    DenseCovariances,
    LowRankCovariances,
    in_threads,
    parts,
)
from skanomaly.density._removal import remove_rows, subtract
from skanomaly.utils.threads import ForkSafeLock

FEW_IMAGES = 16
_SHRINKAGES = (None, "ledoit_wolf")
_LOW_RANKS = ("auto", False, True)
# Held while factors are computed: threads that share a Gaussian may ask for them at the same time.
# It belongs to the module, because a Gaussian that holds a lock could not be copied or pickled.
_FINISHING = ForkSafeLock()


class PositionwiseGaussian:
    """Mean and covariance at every position of maps, learned in a stream.

    Parameters
    ----------
    epsilon : float, default=0.01
        Added to every variance. If there are fewer vectors than numbers per vector, only this makes
        the covariances invertible.
    shrinkage : {"ledoit_wolf"} or None, default=None
        None: the unbiased covariance. "ledoit_wolf": the covariance of every position is shrunk
        toward a multiple of the identity by Ledoit and Wolf's closed form.
    low_rank : {"auto"} or bool, default="auto"
        Whether to store the vectors themselves instead of d x d matrices. "auto" stores them as
        long as there are at most d / 2 of them per position. If True, memory grows with every
        vector.
    updatable : bool, default=True
        If False, what only ``partial_fit`` needs is dropped once distances have been computed: two
        thirds of the memory in the dense form.

    Attributes
    ----------
    covariances_ : object
        Sums and factors, in one of two forms; ``get_state`` returns their arrays.
    shape_ : tuple (h, w, d)
        Shape of a map.
    n_samples_seen_ : int
        Number of vectors per position.
    mean_ : ndarray of shape (h, w, d), float32
        Mean of the vectors at every position.
    form_ : {"dense", "low_rank"}
        Whether d x d matrices or the vectors are stored.

    Notes
    -----
    Sums are in double precision and relative to the mean of the first batch, so they do not lose
    digits; their size does not depend on the number of maps. Factors are computed when distances
    are first needed, and stored in float32. The distances of a map do not depend on the other maps
    in the call. A ``fit`` or ``partial_fit`` that raises ValueError changes nothing.

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

    def fit(self, maps):
        """Learn from these maps only.

        Parameters
        ----------
        maps : array of shape (n, h, w, d)

        Returns
        -------
        self : PositionwiseGaussian

        Raises
        ------
        ValueError
            If a parameter is out of its range, or the maps have another shape or hold NaN or
            infinity.
        """
        self._check_parameters()
        self._learn(_check_maps(maps, None), None)
        return self

    def partial_fit(self, maps):
        """Learn from further maps.

        Parameters
        ----------
        maps : array of shape (b, h, w, d)

        Returns
        -------
        self : PositionwiseGaussian

        Raises
        ------
        ValueError
            As for ``fit``; also if the maps have another shape than those before, or if the sums
            have been dropped because of ``updatable=False``.
        """
        self._check_parameters()
        covariances = getattr(self, "covariances_", None)
        maps = _check_maps(maps, None if covariances is None else self.shape_)
        if covariances is not None and covariances.is_closed:
            raise ValueError(
                "expected a Gaussian that can be updated, got one whose sums were dropped when "
                "distances were computed; create it with updatable=True to add maps later"
            )
        self._learn(maps, covariances)
        return self

    def forget(self, maps, places):
        """Unlearn some of the maps, as if they had never been passed.

        Parameters
        ----------
        maps : array of shape (b, h, w, d)
            What was learned, the same numbers.
        places : array-like of shape (b,), int
            Their places in the order of learning. Those of others move up.

        Returns
        -------
        self : PositionwiseGaussian

        Raises
        ------
        ValueError
            If fewer than 2 maps would be left, the maps have another shape, the sums have been
            dropped because of ``updatable=False``, or vectors that are stored themselves differ.
            Sums do not tell what they were made of: other maps of the same shape go unnoticed.

        Notes
        -----
        Sums are subtracted in double precision. A Gaussian in the dense form stays in it.

        Examples
        --------
        >>> import numpy as np
        >>> from skanomaly.density import PositionwiseGaussian
        >>> maps = np.random.default_rng(0).normal(size=(50, 4, 3, 5))
        >>> gaussian = PositionwiseGaussian().fit(maps).forget(maps[[3, 7]], [3, 7])
        >>> gaussian.n_samples_seen_
        48
        """
        covariances, places = self._learned(), np.asarray(places)
        maps = _check_maps(maps, self.shape_)
        if covariances.is_closed:
            raise ValueError(
                "expected a Gaussian that can be updated, got one whose sums were dropped when "
                "distances were computed; create it with updatable=True to forget maps later"
            )
        if covariances.n - len(maps) < 2:
            raise ValueError(
                f"expected at least 2 maps to be left, got {covariances.n - len(maps)} of "
                f"{covariances.n}; fit anew on other maps"
            )
        vectors = maps.reshape(len(maps), -1, maps.shape[3])  # (b, cells, d)
        if isinstance(covariances, LowRankCovariances):
            remove_rows(covariances, vectors, places)
        else:
            subtract(covariances, vectors)
        return self

    def merge(self, other):
        """Learn what another one has learned, as if its maps had been passed to ``partial_fit``.

        Parameters
        ----------
        other : PositionwiseGaussian
            It stays as it is, and so do the parameters of this one.

        Returns
        -------
        self : PositionwiseGaussian

        Raises
        ------
        TypeError
            If the other is no PositionwiseGaussian.
        ValueError
            If the other has learned nothing or maps of another shape, or if the sums of one of them
            have been dropped because of ``updatable=False``. Nothing is changed.

        Notes
        -----
        Sums about another mean are moved, in double precision: in which order parts are merged
        changes no more than the last digits of a double. Of vectors that are stored themselves
        this holds as long as no distances were computed, which replaces them by factors in float32.

        Examples
        --------
        >>> import numpy as np
        >>> from skanomaly.density import PositionwiseGaussian
        >>> maps = np.random.default_rng(0).normal(size=(50, 4, 3, 5))
        >>> parts = [PositionwiseGaussian().fit(maps[:20]), PositionwiseGaussian().fit(maps[20:])]
        >>> merged = PositionwiseGaussian().merge(parts[0]).merge(parts[1])
        >>> merged.n_samples_seen_
        50
        """
        if not isinstance(other, PositionwiseGaussian):
            raise TypeError(f"expected a PositionwiseGaussian to merge, got {type(other).__name__}")
        self._check_parameters()
        theirs, mine = other._learned(), getattr(self, "covariances_", None)
        if mine is not None and self.shape_ != other.shape_:
            raise ValueError(
                f"expected Gaussians of one shape (h, w, d), got {self.shape_} and {other.shape_}"
            )
        if theirs.is_closed or (mine is not None and mine.is_closed):
            raise ValueError(
                "expected Gaussians that can be updated, got one whose sums were dropped when "
                "distances were computed; create both with updatable=True, or merge them first"
            )
        if mine is None:
            mine = LowRankCovariances(theirs.origin.copy())
        mine = self._in_form(mine, mine.n + theirs.n, isinstance(theirs, LowRankCovariances))
        mine.merge(theirs)
        self.covariances_, self.shape_ = mine, other.shape_
        return self

    def finish(self):
        """Compute the factors now rather than when distances are first needed.

        Returns
        -------
        self : PositionwiseGaussian

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
            If there were fewer than 2 vectors per position, a covariance is singular, or the maps
            are not as in ``partial_fit``.
        """
        covariances = self._finished()
        maps = _check_maps(maps, self.shape_)
        vectors = maps.reshape(len(maps), -1, maps.shape[3])  # (b, cells, d)
        squared = np.empty(vectors.shape[:2], dtype=np.float32)

        def measure(part):
            u = (vectors[:, part] - covariances.mean[part]).astype(np.float32)  # (b, p, d)
            squared[:, part] = covariances.squared_distances(u, part)

        # With few images a factor is used a few times only and need not stay in the cache.
        block = BLOCK * max(1, FEW_IMAGES // len(maps))
        in_threads(measure, parts(*vectors.shape[1:], block))
        return np.sqrt(squared).reshape(maps.shape[:3])

    def leave_one_out(self, batches):
        """Mahalanobis distance of every vector it has learned from to the Gaussian of the others.

        Exactly that of a Gaussian learned without the vector's map: a scatter without one vector
        differs by a matrix of rank one, so that nothing is learned anew.

        Parameters
        ----------
        batches : iterable of arrays of shape (b, h, w, d)
            The maps that were learned from, in their order.

        Yields
        ------
        ndarray of shape (b, h, w), float32
            Distances, not squared.

        Raises
        ------
        ValueError
            If fewer than 3 maps were learned from.
        NotImplementedError
            With shrinkage, whose share depends on all vectors; or if the sums have been dropped
            because of ``updatable=False``.

        Notes
        -----
        With u = x - m, M = S + (n - 2) epsilon I and p = u' M^-1 u, the squared distance is
        (n - 2) (n / (n - 1))^2 p / (1 - p n / (n - 1)), by Sherman and Morrison's identity.
        """
        covariances = self._finished()
        n = covariances.n
        if n < 3:
            raise ValueError(f"expected at least 3 maps, of which one is left out, got {n}")
        if self.shrinkage is not None or covariances.is_closed:
            raise NotImplementedError(
                "expected a Gaussian with shrinkage=None and updatable=True, got "
                f"{self.shrinkage!r} and {self.updatable}: its sums are needed"
            )
        is_dense = isinstance(covariances, DenseCovariances)
        factors = covariances.left_out_factors(self.epsilon) if is_dense else None
        first = 0
        for maps in batches:
            maps = _check_maps(maps, self.shape_)
            end = first + len(maps)
            if is_dense:
                vectors = maps.reshape(len(maps), -1, maps.shape[3])
                leverage, rest = covariances.leverages(vectors, factors)
            else:
                leverage, rest = covariances.leverages(first, end, self.epsilon)
            squared = (n - 2) * (n / (n - 1)) ** 2 * leverage / rest
            yield np.sqrt(squared).reshape(maps.shape[:3]).astype(np.float32)
            first = end

    def covariance(self, row, column):
        """Covariance at one position, epsilon and shrinkage included, as scoring uses it.

        Parameters
        ----------
        row, column : int

        Returns
        -------
        ndarray of shape (d, d), float64
        """
        covariances = self._finished()
        return covariances.covariance(np.ravel_multi_index((row, column), self.shape_[:2]))

    def __getstate__(self):
        state = dict(vars(self))
        if "covariances_" in state:
            with _FINISHING:  # never half finished by another thread
                state["covariances_"] = copy.copy(state["covariances_"])
        return state

    def get_state(self) -> dict[str, np.ndarray | float]:
        """Parameters and learned state, as arrays and numbers only.

        Returns
        -------
        dict of str to ndarray or number
            Everything that scoring and further learning need. Arrays are not copied: learning from
            further maps changes them.

        Raises
        ------
        ValueError
            If nothing was learned yet.
        """
        covariances = self._learned()
        return {
            "epsilon": float(self.epsilon),
            "shrinkage": _SHRINKAGES.index(self.shrinkage),
            "low_rank": _LOW_RANKS.index(self.low_rank),
            "updatable": bool(self.updatable),
            "shape": np.array(self.shape_),
            "is_low_rank": isinstance(covariances, LowRankCovariances),
            **covariances.get_state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restore a Gaussian from its state.

        Parameters
        ----------
        state : dict of str to ndarray or number
            As returned by ``get_state``. Arrays are copied only if they are read-only.

        Returns
        -------
        PositionwiseGaussian
            It gives exactly the same distances, and learns on in exactly the same way.

        Raises
        ------
        ValueError
            If the state is incomplete.
        """
        try:
            gaussian = cls(
                epsilon=float(state["epsilon"]),
                shrinkage=_SHRINKAGES[int(state["shrinkage"])],
                low_rank=_LOW_RANKS[int(state["low_rank"])],
                updatable=bool(state["updatable"]),
            )
            form = LowRankCovariances if state["is_low_rank"] else DenseCovariances
            gaussian.shape_ = tuple(int(n) for n in state["shape"])
            gaussian.covariances_ = form.from_state(state)
        except KeyError as error:
            raise ValueError(
                f"expected a state as get_state returns it, got one without {error}"
            ) from error
        return gaussian

    @property
    def n_samples_seen_(self):
        return self._learned().n

    @property
    def mean_(self):
        return self._finished().mean.reshape(self.shape_).astype(np.float32)

    @property
    def form_(self):
        return "low_rank" if isinstance(self._learned(), LowRankCovariances) else "dense"

    def _learn(self, maps, covariances):
        """Add checked maps to the covariances, or to new ones if None."""
        d = maps.shape[3]
        vectors = maps.reshape(len(maps), -1, d)  # (b, cells, d)
        if covariances is None:
            covariances = LowRankCovariances(vectors.mean(axis=0, dtype=np.float64))
        covariances = self._in_form(covariances, covariances.n + len(maps))
        covariances.add(vectors)
        self.covariances_, self.shape_ = covariances, maps.shape[1:]

    def _in_form(self, covariances, n, has_rows=True):
        """The covariances, made dense where n vectors, some without their rows, call for it."""
        d = covariances.origin.shape[1]
        keeps_rows = has_rows and (n <= d // 2 if self.low_rank == "auto" else self.low_rank)
        is_rows = isinstance(covariances, LowRankCovariances)
        return covariances.as_dense() if is_rows and not keeps_rows else covariances

    def _learned(self):
        if not hasattr(self, "covariances_"):
            raise ValueError("expected a fitted PositionwiseGaussian; call fit or partial_fit")
        return self.covariances_

    def _finished(self):
        """The covariances, with their factors."""
        covariances = self._learned()
        with _FINISHING:
            if not covariances.is_finished:
                if covariances.n < 2:
                    raise ValueError(
                        "expected at least 2 vectors per position to estimate a covariance, got "
                        "n_samples=1; call partial_fit with more good images"
                    )
                covariances.finish(self.epsilon, self.shrinkage)
                if not self.updatable:
                    covariances.close()
        return covariances

    def _check_parameters(self):
        if not 0 <= self.epsilon < np.inf:
            raise ValueError(f"epsilon must be a number >= 0, got {self.epsilon}")
        if self.shrinkage not in _SHRINKAGES:
            raise ValueError(f"shrinkage must be None or 'ledoit_wolf', got {self.shrinkage!r}")
        if self.low_rank not in _LOW_RANKS:
            raise ValueError(f"low_rank must be 'auto', True or False, got {self.low_rank!r}")


def _check_maps(maps, shape):
    """Maps (b, h, w, d) as float32; ``shape`` (h, w, d), or None for any."""
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
