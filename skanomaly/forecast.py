"""A forecast of the memory that a fit will hold."""

from typing import Any

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline

from skanomaly.feature_maps import FeatureMaps
from skanomaly.utils.validation import is_images

__all__ = ["estimate_memory"]


def estimate_memory(pipeline: Any, X: Any, *, n_images: int | None = None) -> dict[str, int]:
    """Forecast what a fit would hold in memory, before it starts.

    Parameters
    ----------
    pipeline : estimator
        A Pipeline of extractor and detector, a detector of images, or one of features if X holds
        features; or a HeldOutThreshold, a search or an EnsembleDetector of these. Fitted or
        not; it is left as it is.
    X : what the estimator's ``fit`` takes
        The first two images are read.
    n_images : int, default=None
        Forecast for so many images like these; None: as many as X has.

    Returns
    -------
    dict of str to int
        Bytes by what they are for, and their ``"total"``: an estimate, not a bound. In
        ``benchmarks/bench_memory.py`` the peak was 0.5 to 1.3 times as large, 0.85 to 1.05 times
        from 0.25 GB on. The interpreter and its libraries come on top. A search counts as fits of
        its estimator with the parameters that this has now, as many at a time as ``n_jobs`` says.

    Raises
    ------
    TypeError
        There is no detector, or X does not hold what it takes.
    NotImplementedError
        The detector is a class of yours without the hook ``_forecast``.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline, estimate_memory
    >>> from skanomaly.datasets import make_textures
    >>> pipe = Pipeline([("features", FilterBank()), ("detector", PatchCore())])
    >>> needs = estimate_memory(pipe, make_textures(2, size=64), n_images=1000)
    >>> f"{needs['features'] / 1e6:.0f} MB"
    '423 MB'
    """
    n_images = len(X) if n_images is None else n_images
    needs, _ = _needs_of_fit(pipeline, X[:2], n_images)
    return {**needs, "total": sum(needs.values())}


def _needs_of_fit(estimator, sample, n_images):
    """Bytes that a fit holds, by what they are for, and those of the fitted model."""
    if isinstance(estimator, FrozenEstimator):
        return {}, 0  # fits nothing
    if isinstance(estimator, Pipeline):
        return _needs_of_pipeline(estimator, sample, n_images)
    if hasattr(estimator, "estimator") and hasattr(estimator, "cv"):
        return _needs_of_folds(estimator, sample, n_images)
    if hasattr(estimator, "estimators") and hasattr(estimator, "refit"):
        raise TypeError(
            f"the memory of a {type(estimator).__name__} cannot be estimated; pass its candidates "
            "one by one"
        )
    if hasattr(estimator, "estimators"):
        return _needs_of_members(estimator, sample, n_images)
    input_needs, layer_shapes, n_inputs = _needs_of_input(estimator, sample, n_images)
    needs = estimator._forecast(layer_shapes, n_inputs)
    kept = getattr(estimator, "_kept_of_forecast", needs)
    return {**input_needs, **needs}, sum(needs[name] for name in kept if name in needs)


def _needs_of_pipeline(pipeline, sample, n_images):
    if len(pipeline) == 1:
        return _needs_of_fit(pipeline[-1], sample, n_images)
    steps = clone(pipeline[:-1]).fit(sample)
    for extractor in _extractors(steps[-1]):
        if extractor.would_stream(extractor.layer_shapes_, n_images):
            extractor.set_params(memory_limit=1)  # so that a few images' features are, too
    return _needs_of_fit(pipeline[-1], steps.transform(sample), n_images)


def _extractors(step):
    """Those that may stream: a step itself, or those that a union puts side by side."""
    if isinstance(step, FeatureUnion):
        for _, part in step.transformer_list:
            yield from _extractors(part)
    elif hasattr(step, "would_stream"):
        yield step


def _needs_of_folds(search, sample, n_images):
    """Of a search, or a HeldOutThreshold, which holds its model while it fits those of folds."""
    needs, n_kept = _needs_of_fit(search.estimator, sample, n_images)
    n_at_a_time, more = effective_n_jobs(search.n_jobs), {}
    if not hasattr(search, "refit"):
        more["the model in use"] = n_kept
        n_at_a_time = min(n_at_a_time, search.cv) if isinstance(search.cv, int) else n_at_a_time
    if n_at_a_time > 1:
        more["fits in other processes"] = (n_at_a_time - 1) * sum(needs.values())
    return {**needs, **more}, n_kept


def _needs_of_members(ensemble, sample, n_images):
    """Of an ensemble, whose members are fitted one after another: at the widest of them."""
    widest, n_kept = {}, 0
    for _, member in ensemble.estimators:
        if isinstance(member, str):  # "drop"
            continue
        needs, n_more = _needs_of_fit(member, sample, n_images)
        needs = {**needs, "members before": n_kept}
        widest = max(widest, needs, key=lambda one: sum(one.values()))
        n_kept += n_more
    return widest, n_kept


def _needs_of_input(detector, sample, n_images):
    """Bytes of what a detector is given to learn from, its {layer: (h, w, C)}, and how many."""
    if hasattr(detector, "_input_shapes"):
        layer_shapes = detector._input_shapes(sample)
        n_inputs = detector._count_inputs(sample, n_images)
        n_values = sum(h * w * c for h, w, c in layer_shapes.values())
        return {"pixels": 4 * n_values * n_inputs}, layer_shapes, n_inputs
    if not hasattr(detector, "_forecast") or is_images(sample):
        raise TypeError(
            "expected a Pipeline of extractor and detector, or a detector and what its fit takes, "
            f"got {type(detector).__name__} and {type(sample).__name__}"
        )
    if not isinstance(sample, FeatureMaps):
        sample = np.asarray(sample, dtype=np.float32)
        sample = sample[:, None, None] if sample.ndim == 2 else sample
        sample = FeatureMaps({"features": sample})
    n_bytes = sample.nbytes * n_images // len(sample)  # of a union's parts some may be streamed
    return {"features": n_bytes}, sample.layer_shapes, n_images
