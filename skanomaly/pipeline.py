"""Pipeline with score maps, and the same functions for whatever a detector is wrapped in."""

import functools
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline as _SklearnPipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skanomaly.exceptions import TrainingError
from skanomaly.regions import map_regions
from skanomaly.utils.state import exchanged, reading, snapshot
from skanomaly.utils.unwrapping import (
    check_nearest_good,
    innermost,
    outermost,
    places_of_good_images,
    transformed,
)

__all__ = ["Pipeline", "nearest_good", "score_map", "score_regions"]


def _final_has_score_map(pipeline):
    return hasattr(pipeline.steps[-1][1], "score_map")


def _final_has(name):
    """Whether the last step has this method of learning and is not frozen."""

    def is_there(pipeline):
        last = pipeline.steps[-1][1]
        return hasattr(last, name) and not isinstance(last, FrozenEstimator)

    return is_there


def _of_sklearn(name, decorate):
    """A method of scikit-learn's Pipeline, decorated; it is there where the steps allow it."""

    def is_there(self):
        return getattr(super(Pipeline, self), name) is not None  # raises what says why not

    method = decorate(getattr(_SklearnPipeline, name))
    summary = method.__doc__.partition("\n\n")[0]
    method.__doc__ = f"{summary}\n\n        As :class:`sklearn.pipeline.Pipeline` has it.\n        "
    return available_if(is_there)(method)


def _learning(method):
    """Decorator of a method that fits: all steps change at its end, at once, or none does."""

    @functools.wraps(method)
    def learn(self, *args, **kwargs):
        failure = None
        with exchanged(self) as fresh:
            last = fresh.steps[-1][1] if fresh.steps else None
            before = getattr(last, "__dict__", None)
            try:
                result = method(fresh, *args, **kwargs)
            except TrainingError as error:
                if getattr(last, "__dict__", None) is before:
                    raise
                failure = error  # after which the last step has kept what it had learned
        if failure is not None:
            raise failure
        return self if result is fresh else result

    return learn


class Pipeline(_SklearnPipeline):
    """scikit-learn's Pipeline with the method ``score_map``, and safe in several threads.

    Anything that holds for :class:`sklearn.pipeline.Pipeline` holds here. Beyond it, a fit changes
    all steps at its end, at once: a thread that predicts meanwhile gets the result of the old model
    or of the new one, and a fit that fails or is interrupted changes nothing.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(6, size=(64, 64), random_state=0)
    >>> pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", PatchCore())])
    >>> pipe.fit(good).score_map(good[:2]).shape
    (2, 64, 64)
    """

    fit = _of_sklearn("fit", _learning)
    fit_transform = _of_sklearn("fit_transform", _learning)
    fit_predict = _of_sklearn("fit_predict", _learning)
    set_params = _of_sklearn("set_params", _learning)
    predict = _of_sklearn("predict", reading)
    predict_proba = _of_sklearn("predict_proba", reading)
    predict_log_proba = _of_sklearn("predict_log_proba", reading)
    decision_function = _of_sklearn("decision_function", reading)
    score_samples = _of_sklearn("score_samples", reading)
    score = _of_sklearn("score", reading)
    transform = _of_sklearn("transform", reading)
    inverse_transform = _of_sklearn("inverse_transform", reading)

    @available_if(_final_has("partial_fit"))
    def partial_fit(self, X, y=None):
        """Let the last step learn from further good images; the steps before stay as they are.

        Parameters
        ----------
        X, y : as in ``fit``
            The images are numbered on after those before.

        Returns
        -------
        self : Pipeline

        Notes
        -----
        The first call is a fit of all steps. What becomes of the threshold is said at the last
        step's ``partial_fit``.
        """
        with exchanged(self) as fresh:
            try:
                check_is_fitted(fresh)
            except NotFittedError:
                fresh.fit(X, y)
            else:
                fresh.steps[-1][1].partial_fit(transformed(fresh, X), y)
        return self

    @available_if(_final_has("forget"))
    def forget(self, images, X=None):
        """Let the last step forget some of the images that it was fitted on.

        Parameters
        ----------
        images : array-like of shape (k,), int
            Places in the X of ``fit``, and on through those of ``partial_fit``.
        X : the same k images, as ``fit`` takes them, default=None
            For a detector that keeps no images, PaDiM.

        Returns
        -------
        self : Pipeline
        """
        with exchanged(self) as fresh:
            features = None if X is None else transformed(fresh, X)
            fresh.steps[-1][1].forget(images, features)
        return self

    def __getstate__(self):
        return super(Pipeline, snapshot(self)).__getstate__()  # never half of a fit in a file

    @available_if(_final_has_score_map)
    def score_map(self, X):
        """Heat maps of the last step, on X as the steps before transform it.

        Parameters
        ----------
        X : images, as the first step takes them

        Returns
        -------
        ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
            The higher, the more abnormal.
        """
        return score_map(self, X)


def score_map(estimator: Any, X: Any) -> np.ndarray | list[np.ndarray]:
    """Heat maps of a detector, or of the one inside a Pipeline, a search or a frozen estimator.

    Parameters
    ----------
    estimator : fitted estimator
        A detector; a scikit-learn Pipeline that ends in one; a fitted search (its best estimator
        is used); or any of these in a FrozenEstimator.
    X : what the estimator's ``predict`` takes

    Returns
    -------
    ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
        The higher, the more abnormal; in the images' own pixels; a list where sizes differ.

    Raises
    ------
    TypeError
        There is no detector with score maps in the estimator.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skanomaly import FilterBank, PatchCore, score_map
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(6, size=(64, 64), random_state=0)
    >>> pipe = make_pipeline(FilterBank(image_size=64), PatchCore()).fit(good)
    >>> score_map(pipe, good[:2]).shape
    (2, 64, 64)
    """
    detector, X = innermost(estimator, X)
    return detector.score_map(X)


def score_regions(
    estimator: Any, X: Any, threshold: float | None = None, *, as_frame: bool = False
) -> Any:
    """Table of the regions of images whose scores lie above a threshold.

    Parameters
    ----------
    estimator : fitted estimator
        As for :func:`score_map`.
    X : what the estimator's ``predict`` takes
    threshold : float or None, default=None
        Threshold on the score map. None: the ``map_offset_`` of a
        :class:`~skanomaly.model_selection.HeldOutThreshold` in the estimator.
    as_frame : bool, default=False
        A pandas DataFrame instead of a list.

    Returns
    -------
    list of dict, or DataFrame
        One record per region: image, box, area, peak, mean and centroid, in the images' own
        pixels. See :func:`skanomaly.map_regions`, which takes score maps at hand.

    Raises
    ------
    ValueError
        There is no threshold: none is given, and the estimator has none.
    TypeError
        There is no detector with score maps in the estimator.
    ImportError
        A frame is asked for and pandas is not there.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline, score_regions
    >>> from skanomaly.datasets import make_inspection
    >>> from skanomaly.model_selection import HeldOutThreshold
    >>> data = make_inspection(20, 1, 1, kind="brushed", size=64, random_state=0)
    >>> pipe = Pipeline([("features", FilterBank(image_size=64, random_state=0)),
    ...                  ("detector", PatchCore(random_state=0))])
    >>> model = HeldOutThreshold(pipe, target_fpr=0.1, cv=2, random_state=0).fit(data.train.images)
    >>> regions = score_regions(model, data.test.images)
    >>> [region["image"] for region in regions]  # image 0 is good
    [1]
    """
    estimator = snapshot(estimator)  # for threshold and maps of one fit
    threshold = _map_offset(estimator) if threshold is None else threshold
    return map_regions(score_map(estimator, X), threshold, as_frame=as_frame)


def nearest_good(estimator: Any, X: Any, *, n_peaks: int = 1, as_frame: bool = False) -> Any:
    """For each hot spot of images the good patch it is nearest to, and where that comes from.

    Parameters
    ----------
    estimator : fitted estimator
        As for :func:`score_map`; the detector within is a PatchCore or a SPADE.
    X : what the estimator's ``predict`` takes
    n_peaks : int, default=1
        Hot spots per image, at most: the highest peaks of its score map.
    as_frame : bool, default=False
        A pandas DataFrame instead of a list.

    Returns
    -------
    list of dict, or DataFrame
        One record per hot spot, see :meth:`skanomaly.PatchCore.nearest_good`. ``good_image`` is a
        place in the X that the estimator was fitted on, images left out as defects counted; of a
        FrozenEstimator: in the X that the estimator in it was fitted on.

    Raises
    ------
    TypeError
        There is no detector in the estimator, or one that keeps no good patches.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline, nearest_good
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(6, size=(64, 64), random_state=0)
    >>> detector = PatchCore(coreset_ratio=1.0, random_state=0)
    >>> pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", detector)]).fit(good)
    >>> [spot["good_image"] for spot in nearest_good(pipe, good)]  # each is its own nearest
    [0, 1, 2, 3, 4, 5]
    """
    estimator = snapshot(estimator)  # for spots and places of one fit
    detector, X = innermost(estimator, X)
    check_nearest_good(detector)
    spots = detector.nearest_good(X, n_peaks=n_peaks, as_frame=as_frame)
    for places in places_of_good_images(estimator):
        if as_frame:
            spots["good_image"] = places[spots["good_image"]]
        else:
            spots = [{**spot, "good_image": int(places[spot["good_image"]])} for spot in spots]
    return spots


def _map_offset(estimator):
    """The threshold on score maps of the outermost that has one."""
    if (threshold := outermost(estimator, "map_offset_")) is not None:
        return threshold
    check_is_fitted(estimator)
    raise ValueError(
        f"expected a threshold on score maps, got none, and {type(estimator).__name__} has no "
        "map_offset_; pass threshold, or wrap the detector in HeldOutThreshold, which takes one "
        "from held-out good images"
    )
