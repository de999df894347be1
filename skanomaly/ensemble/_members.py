"""Members of an ensemble: what may be one, and its score maps of images that it has not seen."""

from functools import partial

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline

from skanomaly.base import BaseDetector
from skanomaly.images import unpack_mask
from skanomaly.utils.threads import limit_blas_threads
from skanomaly.utils.unwrapping import (
    fit_once,
    innermost,
    scores_and_maps,
    transformed,
    without_threshold,
)


def check_member(name, member):
    """TypeError for what has no score maps and is not wrapped around anything that has."""
    inner = member
    while inner is not None and not hasattr(inner, "score_map"):
        is_pipeline = isinstance(inner, Pipeline)
        inner = inner.steps[-1][1] if is_pipeline else getattr(inner, "estimator", None)
    if inner is None or isinstance(member, type):
        what = f"the class {member.__name__}" if isinstance(member, type) else repr(member)
        raise TypeError(
            "expected detectors with score maps, Pipelines that end in one, or 'drop' as members, "
            f"got {what} as {name!r}"
        )


def can_leave_one_out(member):
    """Whether a member's images can be left out of what one fit has learned."""
    detector = member.steps[-1][1] if isinstance(member, Pipeline) else member
    # A frozen one, whose own images are others, is none.
    return isinstance(detector, BaseDetector) and hasattr(detector, "_leave_one_out")


def fit_held_out(member, X, cv):
    """Fit a clone of a member on good images, and score each of these as if it were new.

    Parameters
    ----------
    member : estimator
    X : collection of n good images, or FeatureMaps of shape (n, D)
        It takes arrays of int as index.
    cv : int or splitter
        The folds, where the member cannot leave out single images of one fit.

    Returns
    -------
    fitted : estimator
    maps : list of n callables
        Each returns a score map (H, W), which is held on the detector's own grid until then.
    """
    fitted = clone(member)
    features = fit_once(fitted, X)
    if can_leave_one_out(member):
        try:
            return fitted, _left_out(fitted, features, np.arange(len(X)))
        except NotImplementedError:
            pass  # it cannot with its present parameters: by folds, as those that never can
    del features  # the folds need their memory
    maps = [None] * len(X)
    for train, test in check_cv(cv).split(np.arange(len(X))):
        model = without_threshold(clone(member)).fit(X[train], None)
        for i, one in zip(test, _held_out(model, X[test]), strict=True):
            maps[i] = one
    if None in maps:
        raise ValueError(
            f"expected a splitter that holds out each image, got {cv!r}, which leaves out image "
            f"{maps.index(None)}; pass a number of folds or KFold"
        )
    return fitted, maps


def left_out_maps(fitted, X, groups):
    """Score maps, as of fit_held_out, of the images of its fit, their groups left out in turn."""
    return _left_out(fitted, transformed(fitted, X), groups)


def _left_out(member, features, groups):
    detector = member[-1] if isinstance(member, Pipeline) else member
    maps = detector._check_X(features, reset=False)
    return [
        one
        for batch, raw in detector._leave_one_out(maps, groups)
        for one in _in_frames(
            detector,
            batch.image_fit,
            batch.scored_inside(raw["score_maps"]),
            batch.frames,
            batch.roi_bits,
        )
    ]


def _held_out(model, X):
    """Score maps of a few images by a model that was fitted on others."""
    detector, features = innermost(model, X)
    if not isinstance(detector, BaseDetector) or not hasattr(detector, "_score_maps"):
        # All that is known of it are its score maps.
        return [partial(np.asarray, one) for one in scores_and_maps(model, X)[1]]
    maps = detector._check_X(features, reset=False)
    return [
        one
        for frames, raw in detector._raw_scores(maps)
        for one in _in_frames(detector, maps.image_fit, raw["score_maps"], frames, raw.get("roi"))
    ]


def _in_frames(detector, image_fit, score_maps, frames, bits):
    bits = [None] * len(frames) if bits is None else bits
    return [
        partial(_in_frame, image_fit, one, frame, detector.sigma, some)
        for one, frame, some in zip(score_maps, frames, bits, strict=True)
    ]


def _in_frame(image_fit, patch_scores, frame, sigma, bits):
    inside = None if bits is None else unpack_mask(bits, frame)
    with limit_blas_threads():
        return image_fit.to_frame(patch_scores, frame, sigma, inside)
