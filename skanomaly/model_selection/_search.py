"""DetectorSearchCV: a choice among whole candidates, with defects painted into held-out images."""

import time
from numbers import Integral
from tempfile import TemporaryDirectory, gettempdir

import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.model_selection import check_cv
from sklearn.utils import indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skanomaly.base import ThresholdMixin
from skanomaly.io import remove_leftovers, temporary_name
from skanomaly.model_selection._scorers import Scorers, scorers
from skanomaly.model_selection._split import GoodOnlyKFold, take_rows
from skanomaly.utils.unwrapping import image_threshold, scores_and_maps, without_threshold
from skanomaly.utils.validation import fitting


class DetectorSearchCV(ThresholdMixin, MetaEstimatorMixin, BaseEstimator):
    """The best of some named detectors or pipelines, of whatever kinds, by cross-validation.

    By default it asks for no defects: candidates are compared by how well they tell held-out good
    images from the same images with painted defects. All meet the same ones.

    Parameters
    ----------
    estimators : list of (str, estimator) tuples
        The candidates: detectors that take images, and Pipelines from an extractor to a detector.
        They may differ in all that a detector may have: features, layers, image size, method,
        parameters. Of equally good ones the first is chosen: begin with the cheapest.
    scoring : callable or None, default=None
        As of :func:`scorers`; None: ``scorers("image_auroc", synthetic=True)``. Of several metrics
        the first decides, and further ones break ties. With ``synthetic=False`` the defects that y
        marks are used.
    cv : int, cross-validation splitter or iterable, default=3
        An int: so many folds, drawn by `random_state`, of GoodOnlyKFold. Of many images a part is
        enough: ``GoodOnlyShuffleSplit(1, train_size=120, test_size=60, random_state=0)``.
    refit : bool, default=True
        Whether the best candidate is fitted on all good images.
    n_jobs : int or None, default=None
        Candidates fitted at a time, as in scikit-learn.
    random_state : int, RandomState instance or None, default=0
        Draws the folds; used only if `cv` is an int.
    verbose : int, default=0
        1 shows a progress bar over the fits.

    Attributes
    ----------
    best_estimator_ : estimator
        The best candidate, fitted on all good images; there with ``refit=True``.
    best_name_ : str
    best_index_ : int
        Its place in `estimators`.
    best_score_ : float
        Mean of its scores over the splits. It was chosen by them, so that they flatter it.
    cv_results_ : dict of str to list or ndarray of shape (n_candidates,)
        ``"name"``, ``"mean_fit_time"``, ``"mean_score_time"`` in seconds, and for each metric, as
        in GridSearchCV, ``"split0_test_score"``, ..., ``"mean_test_score"``, ``"std_test_score"``
        and ``"rank_test_score"``, 1 for the best; of several metrics with their names for "score".
    n_splits_ : int
    offset_ : float
        Threshold of ``best_estimator_`` on ``score_samples``.

    See Also
    --------
    scorers : What the candidates are compared by.
    HeldOutThreshold : A threshold for the best: fit it in one.

    Notes
    -----
    GridSearchCV does the same where candidates are a grid over one pipeline, whose steps may be
    values as well: ``{"features": [FilterBank(), FeatureExtractor("efficientnet_lite0")],
    "detector__sigma": [2, 4]}``. It crosses all values, so that a parameter which one kind of step
    lacks needs a grid of its own; here each candidate is written out. Beyond that, defects are
    painted once for each split, fits have no thresholds, and extractors without a `cache` get one
    in a temporary folder (``TMPDIR``): candidates that share features compute them once, as in
    :class:`FilterBank` if their ``random_state`` is an int.

    Examples
    --------
    >>> from skanomaly import FilterBank, PaDiM, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_textures
    >>> from skanomaly.model_selection import DetectorSearchCV
    >>> good = make_textures(12, size=64, random_state=0)
    >>> features = FilterBank(n_filters=4, image_size=64, random_state=0)
    >>> candidates = [
    ...     (type(detector).__name__, Pipeline([("features", features), ("detector", detector)]))
    ...     for detector in (PatchCore(random_state=0), PaDiM(random_state=0))
    ... ]
    >>> search = DetectorSearchCV(candidates, cv=2).fit(good)
    >>> search.best_name_, search.score_map(good[:2]).shape
    ('PatchCore', (2, 64, 64))
    """

    _parameter_constraints = {
        "estimators": [list],
        "scoring": [callable, None],
        "cv": ["cv_object"],
        "refit": ["boolean"],
        "n_jobs": [None, Integral],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    # Routed metadata that is asked for, as HeldOutThreshold asks for it.
    __metadata_request__fit = {"groups": True}

    def __init__(
        self,
        estimators,
        *,
        scoring=None,
        cv=3,
        refit=True,
        n_jobs=None,
        random_state=0,
        verbose=0,
    ):
        self.estimators = estimators
        self.scoring = scoring
        self.cv = cv
        self.refit = refit
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @property
    def offset_(self):
        """As the best candidate has it."""
        return image_threshold(self.best_estimator_)

    @fitting(nested=True)
    def fit(self, X, y=None, groups=None):
        """Compare the candidates, and fit the best one on all good images.

        Parameters
        ----------
        X : list of n paths, arrays or PIL images, or array of shape (n, H, W[, C])
            Images.
        y : array of shape (n,), or masks, default=None
            Labels +1 (good) and -1 (defect), or masks, (n, H, W) or a list of (H, W) with None
            for a good image. None: all are good.
        groups : array of shape (n,), default=None
            Images of one group, such as several images of one piece, are held out together.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            There are no candidates, or two of one name; y is coded otherwise, as 0/1, or of
            another length than X; there are fewer good images than folds; or the metrics are
            undefined, as those of real defects where y marks none.
        """
        names = self._check_names()
        X, y = indexable(X, y)
        score = scorers("image_auroc", synthetic=True) if self.scoring is None else self.scoring
        splits = self._splits(X, y, groups)
        remove_leftovers(gettempdir())  # the features of a search that was killed
        with TemporaryDirectory(prefix=f"{temporary_name()}-") as folder:
            candidates = [_as_candidate(estimator, folder) for _, estimator in self.estimators]
            records = self._compare(candidates, score, X, y, splits)
        self.cv_results_, metrics = _results(names, records)
        self.n_splits_ = len(splits)
        means = [self.cv_results_[f"mean_test_{metric}"] for metric in metrics]
        # The first of those that are equal in all metrics.
        self.best_index_ = max(range(len(names)), key=lambda i: tuple(mean[i] for mean in means))
        self.best_name_ = names[self.best_index_]
        self.best_score_ = float(means[0][self.best_index_])
        if self.refit:
            self.best_estimator_ = clone(self.estimators[self.best_index_][1]).fit(X, y)
        return self

    def _check_names(self):
        """The names of the candidates."""
        try:
            names = [name for name, _ in self.estimators]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"estimators must be a list of tuples (name, estimator), got {self.estimators!r}"
            ) from error
        if not names or len(set(names)) < len(names):
            raise ValueError(f"expected candidates, each with a name of its own, got {names}")
        return names

    def _splits(self, X, y, groups):
        """List of (train, test)."""
        cv = self.cv
        if isinstance(cv, Integral):
            cv = GoodOnlyKFold(cv, shuffle=True, random_state=self.random_state)
        return list(check_cv(cv).split(X, y, groups))

    def _compare(self, candidates, score, X, y, splits):
        """A record of each split and candidate: a list of lists of (scores, seconds, seconds)."""
        records, n_fits = [], len(splits) * len(candidates)
        with tqdm(total=n_fits, desc="fits", disable=not self.verbose) as bar:
            for train, test in splits:
                training, tests = (
                    (take_rows(X, rows), None if y is None else take_rows(y, rows))
                    for rows in (train, test)
                )
                evaluate = score
                if isinstance(score, Scorers):  # the same painted images for all
                    tests, evaluate = score.prepare(*tests), score.evaluate
                # Each an argument of its own: dask sends large ones to a worker once.
                jobs = (
                    delayed(_fit_and_score)(evaluate, *training, *tests, candidate)
                    for candidate in candidates
                )
                records.append([])
                for record in Parallel(n_jobs=self.n_jobs, return_as="generator")(jobs):
                    records[-1].append(record)
                    bar.update()
        return records

    def score_samples(self, X):
        """Score of each image by the best candidate: the lower, the more abnormal.

        Parameters
        ----------
        X : as in fit

        Returns
        -------
        ndarray of shape (n,), float64
        """
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_.score_samples(X)

    def score_samples_and_map(self, X):
        """Scores and anomaly maps of the best candidate in one pass.

        Parameters
        ----------
        X : as in fit

        Returns
        -------
        scores : ndarray of shape (n,), float64
            The lower, the more abnormal.
        maps : ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
            The higher, the more abnormal; a list where the images' sizes differ.
        """
        check_is_fitted(self, "best_estimator_")
        return scores_and_maps(self.best_estimator_, X)


def _as_candidate(estimator, folder):
    """An unfitted copy without a threshold, whose extractor keeps features in a folder."""
    candidate = without_threshold(clone(estimator))
    caches = {
        name: folder
        for name, value in candidate.get_params(deep=True).items()
        if value is None and (name == "cache" or name.endswith("__cache"))
    }
    return candidate.set_params(**caches)


def _fit_and_score(evaluate, X, y, X_test, y_test, candidate):
    """({metric: score}, seconds of the fit, seconds of the scores) of one candidate and split."""
    began = time.perf_counter()
    model = clone(candidate).fit(X, y)
    fitted = time.perf_counter()
    scores = evaluate(model, X_test, y_test)
    if not isinstance(scores, dict):
        scores = {"score": scores}
    if not np.isfinite(list(scores.values())).all():  # now, not after hours of other fits
        raise ValueError(
            f"expected a number as score of each candidate, got {scores}; metrics need defects: "
            "mark some in y, or use scorers(..., synthetic=True)"
        )
    return scores, fitted - began, time.perf_counter() - fitted


def _results(names, records):
    """The dict ``cv_results_``, and the names of the metrics."""
    fit_times, score_times = (
        np.mean([[record[i] for record in split] for split in records], axis=0) for i in (1, 2)
    )
    found = {"name": names, "mean_fit_time": fit_times, "mean_score_time": score_times}
    metrics = list(records[0][0][0])
    for metric in metrics:
        scores = np.array([[record[0][metric] for record in split] for split in records])
        found |= {f"split{i}_test_{metric}": row for i, row in enumerate(scores)}
        found[f"mean_test_{metric}"] = mean = scores.mean(axis=0)
        found[f"std_test_{metric}"] = scores.std(axis=0)
        found[f"rank_test_{metric}"] = rankdata(-mean, method="min").astype(int)
    return found, metrics
