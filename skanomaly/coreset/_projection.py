"""Gaussian random projection of rows that arrive batch by batch."""

import numpy as np
from sklearn.utils import check_array, check_random_state, gen_batches

_BATCH_ROWS = 2_048


class RandomProjection:
    """Project rows to few dimensions; their distances are kept in expectation.

    The matrix is that of :class:`sklearn.random_projection.GaussianRandomProjection` with the same
    ``random_state``. Rows may arrive in batches of any size: the projection of a row does not
    depend on the other rows of its batch. Rows that already have few columns are not projected.

    Parameters
    ----------
    n_projections : int or None, default=128
        Columns to project to. None, or at least as many as there are features: no projection.
    random_state : int, RandomState instance or None, default=None
        Draws the matrix, in ``fit``.

    Attributes
    ----------
    components_ : ndarray of shape (n_features, n_projections), float64, or None
        The matrix; None if rows are not projected.
    n_features_in_ : int
        Number of columns that ``transform`` expects.
    origin_ : ndarray of shape (n_features,), float64, or None
        Point that is subtracted from every row first.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.coreset import RandomProjection
    >>> batches = np.random.default_rng(0).normal(size=(3, 50, 768))
    >>> projection = RandomProjection(128, random_state=0).fit(768)
    >>> np.vstack([projection.transform(batch) for batch in batches]).shape
    (150, 128)
    """

    def __init__(self, n_projections=128, random_state=None):
        self.n_projections = n_projections
        self.random_state = random_state

    def fit(self, n_features, origin=None):
        """Draw the matrix.

        Parameters
        ----------
        n_features : int
            Number of columns of the rows that will be projected.
        origin : array-like of shape (n_features,) or None, default=None
            A point near the rows, such as the first row. Subtracting it changes no distance; it is
            done before anything is rounded to float32, so that rows far from zero keep their
            precision.

        Returns
        -------
        self : RandomProjection

        Raises
        ------
        ValueError
            If ``n_features`` or ``n_projections`` is below 1.
        """
        if n_features < 1:
            raise ValueError(f"n_features must be at least 1, got {n_features}.")
        if self.n_projections is not None and self.n_projections < 1:
            raise ValueError(f"n_projections must be None or at least 1, got {self.n_projections}.")
        self.n_features_in_ = int(n_features)
        self.origin_ = None
        if origin is not None:
            self.origin_ = np.asarray(origin, dtype=np.float64).reshape(self.n_features_in_)
        self.components_ = None
        if self.n_projections is not None and self.n_projections < n_features:
            shape = (self.n_projections, self.n_features_in_)
            rng = check_random_state(self.random_state)
            self.components_ = rng.normal(scale=1 / np.sqrt(self.n_projections), size=shape).T
        return self

    @property
    def n_features_out_(self):
        """Number of columns that ``transform`` returns."""
        return self.n_features_in_ if self.components_ is None else self.n_projections

    def transform(self, X):
        """Project a batch of rows.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Finite numbers.

        Returns
        -------
        ndarray of shape (n, n_projections) or (n, n_features), float32

        Raises
        ------
        ValueError
            If X is not a matrix of finite numbers with ``n_features`` columns.
        """
        X = check_array(X, dtype=[np.float64, np.float32], order="C", input_name="X")
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"The projection was fitted for rows of {self.n_features_in_} columns, "
                f"got {X.shape[1]}."
            )
        projected = np.empty((len(X), self.n_features_out_), dtype=np.float32)
        for part in gen_batches(len(X), _BATCH_ROWS):
            # In float64: the last digits of a product depend on the position of the row in its
            # batch and on the number of threads. Rounding to float32 removes the difference.
            rows = X[part].astype(np.float64)
            if self.origin_ is not None:
                rows -= self.origin_
            projected[part] = rows if self.components_ is None else rows @ self.components_
        return projected
