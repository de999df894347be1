"""Splitters for detectors: models learn from good images only, and every defect is for testing."""

import numpy as np
from sklearn.model_selection import (
    BaseCrossValidator,
    BaseShuffleSplit,
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    ShuffleSplit,
)

from skanomaly.utils.targets import is_defect

TEST_SHARE = 0.1  # of random parts, by default


class GoodOnlyKFold(BaseCrossValidator):
    """K folds of the good images; the defects are in every test part and in no training part.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=False
        Whether to mix the good images, or the groups, before they are cut into folds.
    random_state : int, RandomState instance or None, default=None
        Draws the order; used only with ``shuffle=True``.

    See Also
    --------
    GoodOnlyShuffleSplit : Random parts of any size instead of folds.
    HeldOutThreshold : Sets the threshold, and learns from the good images of (X, y) alone.

    Notes
    -----
    A search refits its best candidate on all of X; detectors and extractors leave out what y marks
    as defects. The threshold of ``search.best_estimator_`` is the detector's own: for a reliable
    one, fit ``HeldOutThreshold(search.best_estimator_)`` on the same X and y, or search over
    ``HeldOutThreshold(pipeline)``.

    With scikit-learn's ``enable_metadata_routing`` it asks for `groups`, as GroupKFold does:
    ``cross_validate(..., params={"groups": groups})`` reaches it, and so does
    ``search.fit(X, y, groups=groups)``. ``set_split_request`` changes that.

    Examples
    --------
    >>> from skanomaly.model_selection import GoodOnlyKFold
    >>> y = [1, 1, -1, 1, 1, -1]
    >>> for train, test in GoodOnlyKFold(2).split(y, y):
    ...     print(train, test)
    [3 4] [0 1 2 5]
    [0 1] [2 3 4 5]
    """

    # Routed metadata that is asked for, as scikit-learn's splitters with groups have it.
    __metadata_request__split = {"groups": True}

    def __init__(self, n_splits=5, *, shuffle=False, random_state=None):
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state

    def get_n_splits(self, X=None, y=None, groups=None):
        """Number of folds.

        Parameters
        ----------
        X, y, groups : Ignored

        Returns
        -------
        int
        """
        return self.n_splits

    def split(self, X, y=None, groups=None):
        """Training and test rows of each fold.

        Parameters
        ----------
        X : sequence of n images, or FeatureMaps of shape (n, D)
        y : array of shape (n,), or masks, default=None
            Labels +1 (good) and -1 (defect), or masks, (n, H, W) or a list of (H, W) with None
            for a good image. None: all are good.
        groups : array of shape (n,), default=None
            Good images of one group, such as several images of one piece, stay in one fold. A
            defect is in every test part, whatever its group.

        Yields
        ------
        train : ndarray of int
            Good images only, ascending.
        test : ndarray of int
            The held-out good images and all defects, ascending.

        Raises
        ------
        ValueError
            If y is coded otherwise, y or `groups` is of another length than X, or there are fewer
            good images or groups than folds.
        """
        good, defects = good_and_defects(X, y)
        groups = _groups_of(good, groups, len(good) + len(defects))
        folds = KFold if groups is None else GroupKFold
        what = "good images" if groups is None else "groups of good images"
        n_parts = len(good) if groups is None else len(np.unique(groups))
        if n_parts < self.n_splits:
            raise ValueError(
                f"expected at least {self.n_splits} {what}, one for each fold, got {n_parts} "
                f"(n_samples={len(good) + len(defects)}); add good images or lower n_splits"
            )
        folds = folds(self.n_splits, shuffle=self.shuffle, random_state=self.random_state)
        for train, test in folds.split(good, groups=groups):
            yield good[train], np.sort(np.append(good[test], defects))


class GoodOnlyShuffleSplit(BaseShuffleSplit):
    """Random parts of the good images; the defects are in every test part and in no training part.

    Parameters
    ----------
    n_splits : int, default=10
        Number of splits, drawn independently.
    train_size : float or int, default=None
        Share or number of the good images to train on, or of their groups where there are any.
        None: those that `test_size` leaves.
    test_size : float or int, default=None
        Share or number of the good images, or of their groups, to test on, beside the defects.
        None: those that `train_size` leaves, or a tenth.
    random_state : int, RandomState instance or None, default=None
        Draws the parts.

    See Also
    --------
    GoodOnlyKFold : Every good image is tested once; its notes on refitting hold here too.

    Examples
    --------
    >>> from skanomaly.model_selection import GoodOnlyShuffleSplit
    >>> y = [1, 1, -1, 1, 1, -1]
    >>> for train, test in GoodOnlyShuffleSplit(1, test_size=0.25, random_state=0).split(y, y):
    ...     print(len(train), len(test))
    3 3
    """

    __metadata_request__split = {"groups": True}

    def __init__(self, n_splits=10, *, train_size=None, test_size=None, random_state=None):
        super().__init__(
            n_splits, train_size=train_size, test_size=test_size, random_state=random_state
        )

    def split(self, X, y=None, groups=None):
        """Training and test rows of each split.

        Parameters
        ----------
        X : sequence of n images, or FeatureMaps of shape (n, D)
        y : array of shape (n,), or masks, default=None
            As in :meth:`GoodOnlyKFold.split`.
        groups : array of shape (n,), default=None
            As in :meth:`GoodOnlyKFold.split`: good images of one group are all in one part.

        Yields
        ------
        train : ndarray of int
            Good images only, ascending.
        test : ndarray of int
            The held-out good images and all defects, ascending.

        Raises
        ------
        ValueError
            If y is coded otherwise, y or `groups` is of another length than X, or the good images
            or groups are too few for the sizes.
        """
        good, defects = good_and_defects(X, y)
        groups = _groups_of(good, groups, len(good) + len(defects))
        draw = ShuffleSplit if groups is None else GroupShuffleSplit
        by_default = self.test_size is None and self.train_size is None
        parts = draw(
            self.n_splits,
            test_size=TEST_SHARE if by_default else self.test_size,
            train_size=self.train_size,
            random_state=self.random_state,
        )
        for train, test in parts.split(good, groups=groups):
            yield np.sort(good[train]), np.sort(np.append(good[test], defects))


def good_and_defects(X, y):
    """Rows of the good images and of the defects, both ascending; without y all are good."""
    n_images = X.shape[0] if hasattr(X, "shape") else len(X)
    if y is None:
        return np.arange(n_images), np.arange(0)
    defective = is_defect(y)
    if len(defective) != n_images:
        raise ValueError(
            f"expected one entry of y for each image, got {len(defective)} for {n_images} images"
        )
    return np.flatnonzero(~defective), np.flatnonzero(defective)


def _groups_of(rows, groups, n_images):
    """The groups of some of the images, or None where there are no groups."""
    if groups is None:
        return None
    groups = np.asarray(groups)
    if groups.shape != (n_images,):
        raise ValueError(
            f"expected one group for each image, of shape ({n_images},), got shape {groups.shape}"
        )
    return groups[rows]


def take_rows(X, rows):
    """Some of the images, in the kind of collection they came in where it can be indexed so."""
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    return X[rows] if hasattr(X, "shape") else [X[i] for i in rows]
