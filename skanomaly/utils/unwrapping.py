"""From a Pipeline, a search or a wrapper to the detector inside it."""

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from skanomaly.utils.state import snapshot

MAP_BYTES = 64 << 20  # of the score maps held at a time, unless a single one is larger

__all__ = [
    "check_nearest_good",
    "decisions_and_maps",
    "fit_once",
    "image_threshold",
    "innermost",
    "inside",
    "outermost",
    "places_of_good_images",
    "regions_of_interest",
    "scores_and_maps",
    "scores_and_maps_in_parts",
    "transformed",
    "without_threshold",
]


def scores_and_maps(estimator, X):
    """``score_samples`` and ``score_map`` of the detector within, its features computed once."""
    detector, X = innermost(estimator, X)
    if hasattr(detector, "score_samples_and_map"):
        return detector.score_samples_and_map(X)
    return detector.score_samples(X), detector.score_map(X)


def scores_and_maps_in_parts(estimator, X):
    """The same for a few images at a time: yields their slice of X, features, scores and maps.

    Features are computed once; of score maps no more than `MAP_BYTES` are held at a time.
    """
    detector, features = innermost(estimator, X)
    frames = getattr(features, "frames", None)  # None: known once the images are read
    largest = MAP_BYTES if frames is None else 4 * int(np.prod(frames, axis=1).max())
    start = 0
    while start < len(X):
        part = slice(start, start + max(1, MAP_BYTES // largest))
        some = features[part]
        scores, maps = scores_and_maps(detector, some)
        yield part, some, scores, maps
        start += len(scores)
        if frames is None:  # the next images are likely to be of the same size
            largest = max(one.nbytes for one in maps)


def decisions_and_maps(estimator, X):
    """``decision_function`` and ``score_map``, the features computed once."""
    estimator = snapshot(estimator)  # for both of one fit
    offset = image_threshold(estimator)
    scores, maps = scores_and_maps(estimator, X)
    return scores - offset, maps


def image_threshold(estimator):
    """The threshold on ``score_samples``, ``offset_``, of the outermost that has one."""
    offset = outermost(estimator, "offset_")
    if offset is None:
        check_is_fitted(estimator)
        raise NotFittedError(
            f"expected a threshold on the scores, but this {type(estimator).__name__} was fitted "
            "without one; call set_threshold of the detector with good images, or fit the "
            "estimator in a HeldOutThreshold"
        )
    return offset


def innermost(estimator, X):
    """The detector within, as it is now, and X as the steps before it transform it."""
    estimator = snapshot(estimator)
    while (inner := inside(estimator)) is not None:
        if isinstance(estimator, Pipeline):
            check_is_fitted(estimator)
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
        estimator = inner
    if not hasattr(estimator, "score_map"):
        raise TypeError(
            f"expected a fitted detector with score maps, or a Pipeline or search around one, "
            f"got {type(estimator).__name__}; an unfitted search must be fitted first"
        )
    return estimator, X


def inside(estimator):
    """What an estimator is wrapped around; None for a detector itself."""
    if isinstance(estimator, Pipeline):
        return estimator[-1]
    if isinstance(estimator, FrozenEstimator):
        return estimator.estimator
    for name in ("estimator_", "best_estimator_"):  # a fitted HeldOutThreshold; a fitted search
        if hasattr(estimator, name):
            return getattr(estimator, name)
    return None


def check_nearest_good(estimator):
    """The detector within, if it keeps good patches; TypeError if it does not."""
    while (inner := inside(estimator)) is not None:
        estimator = inner
    if not hasattr(estimator, "nearest_good"):
        check_is_fitted(estimator)
        raise TypeError(
            f"expected a detector that keeps good patches, PatchCore or SPADE, got "
            f"{type(estimator).__name__}; the regions that it finds are in score_regions"
        )
    return estimator


def outermost(estimator, name, default=None):
    """The attribute of the outermost estimator that has one of this name."""
    while estimator is not None:
        if hasattr(estimator, name):
            return getattr(estimator, name)
        estimator = inside(estimator)
    return default


def places_of_good_images(estimator):
    """Places of the good images in the X of fit, for each estimator that left others out.

    From the inside out: an array gives the places in X of the images that the next estimator
    inside was fitted on.
    """
    places = []
    while estimator is not None:
        if isinstance(estimator, FrozenEstimator):
            places = []  # the estimator inside was fitted on images of its own
        elif hasattr(estimator, "good_images_"):
            places.append(estimator.good_images_)
        estimator = inside(estimator)
    return places[::-1]


def regions_of_interest(estimator, images):
    """The regions of interest (H, W) of images that the extractors within look at.

    None for an image of which all pixels count. Of several extractors side by side: what lies in
    the regions of all; of the members of an ensemble: what lies in that of any.
    """
    regions = [None] * len(images)
    estimator = snapshot(estimator)
    while (inner := inside(estimator)) is not None:
        for _, step in estimator.steps[:-1] if isinstance(estimator, Pipeline) else ():
            for extractor in _extractors(step):
                found = extractor.regions_of_interest(images)
                regions = [_both(*pair) for pair in zip(regions, found, strict=True)]
        estimator = inner
    if hasattr(estimator, "regions_of_interest"):  # a detector on images
        found = estimator.regions_of_interest(images)
        return [_both(*pair) for pair in zip(regions, found, strict=True)]
    if members := getattr(estimator, "estimators_", None):
        of_members = [regions_of_interest(member, images) for member in members]
        found = [_any_of(some) for some in zip(*of_members, strict=True)]
        return [_both(*pair) for pair in zip(regions, found, strict=True)]
    return regions


def _extractors(step):
    """The extractors in a step of a Pipeline."""
    if isinstance(step, FeatureUnion):
        return [one for _, part in step.transformer_list for one in _extractors(part)]
    return [step] if hasattr(step, "regions_of_interest") else []


def _both(one, other):
    """What lies in two masks, of which each may be None."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _any_of(masks):
    """What lies in any of some masks; None where one of them is None."""
    return None if any(mask is None for mask in masks) else np.logical_or.reduce(masks)


def fit_once(estimator, X):
    """Fit a detector, or a Pipeline that ends in one, and return what the detector learned from.

    Features are computed once, unless the Pipeline has a memory that is to keep them.
    """
    if not isinstance(estimator, Pipeline) or len(estimator) == 1 or estimator.memory is not None:
        estimator.fit(X, None)
        return transformed(estimator, X)
    features = estimator[:-1].fit_transform(X, None)
    estimator[-1].fit(features)
    return features


def transformed(estimator, X):
    """X as the last step of a fitted Pipeline gets it; of a detector itself: as it is."""
    if not isinstance(estimator, Pipeline) or len(estimator) == 1:
        return X
    return estimator[:-1].transform(X)


def without_threshold(estimator):
    """An unfitted detector, or Pipeline that ends in one, set to fit without a threshold.

    For models whose scores alone are of use; other estimators are returned as they are.
    """
    detector = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    is_ours = hasattr(detector, "set_threshold")
    if is_ours and "contamination" in detector.get_params(deep=False):  # none of a FrozenEstimator
        detector.set_params(contamination=None)
    return estimator
