"""Refuse bad input with a good sentence; the only importer of scikit-learn's private names."""

import functools

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data

__all__ = [
    "Interval",
    "StrOptions",
    "check_array_input",
    "check_decisions",
    "check_layers",
    "check_length",
    "choose_layers",
    "fitting",
    "good_rows",
    "holds_masks",
    "is_images",
    "read_labels",
]


def fitting(*, nested=False, but=()):
    """Decorator of ``fit``: parameters are checked, and a fit that fails loses nothing.

    Whatever it raises, an interrupt as well, the estimator then has the attributes it had before;
    what was changed in place stays changed.

    Parameters
    ----------
    nested : bool
        Whether parameters of the estimators that this one fits are checked once more.
    but : kind of exception, or tuple of them
        Those after which what was learned so far is kept.
    """

    def decorate(fit):
        @functools.wraps(fit)
        def careful(self, *args, **kwargs):
            before = dict(vars(self))
            try:
                return fit(self, *args, **kwargs)
            except but:
                raise
            except BaseException:
                vars(self).clear()
                vars(self).update(before)
                raise

        return _fit_context(prefer_skip_nested_validation=not nested)(careful)

    return decorate


def check_array_input(estimator, X, *, reset):
    """Plain arrays given to a detector as (n, h, w, d) float32.

    (n, d) is n images of one patch each. Raises ValueError for anything that looks like images.
    """
    _refuse_images(X, type(estimator).__name__)
    if getattr(X, "ndim", 2) <= 2:
        X = validate_data(estimator, X, reset=reset, dtype=np.float32)
        return X[:, None, None, :]
    if X.ndim != 4 or 0 in X.shape:
        raise ValueError(
            f"expected feature arrays of shape (n, d) or (n, h, w, d), got shape {X.shape}; "
            "a single image's features (h, w, d) become a batch with X[None]"
        )
    # n_features_in_ of a 4-D array would be the grid's height, so channels are checked here.
    X = np.asarray(X, dtype=np.float32)
    if not np.isfinite(X).all():
        raise ValueError("expected finite features, got NaN or infinity in the input")
    if reset:
        estimator.n_features_in_ = X.shape[3]
    elif X.shape[3] != estimator.n_features_in_:
        raise ValueError(
            f"expected features with {estimator.n_features_in_} channels, as in fit, "
            f"got {X.shape[3]}; use the extractor the detector was fitted with"
        )
    return X


def is_images(X):
    """Whether X is images or paths, rather than features."""
    is_row = getattr(X, "ndim", 0) == 1 and getattr(X, "dtype", np.dtype(float)).kind in "OUS"
    first = None
    if (isinstance(X, (list, tuple)) or is_row) and len(X):
        first = X.iloc[0] if hasattr(X, "iloc") else X[0]
    is_path = isinstance(first, str) or hasattr(first, "__fspath__")
    is_image = type(first).__module__.startswith("PIL.") or getattr(first, "ndim", 0) >= 2
    is_pixels = isinstance(X, np.ndarray) and X.ndim in (3, 4) and X.dtype in (np.uint8, np.uint16)
    return is_path or is_image or is_pixels or isinstance(X, str)


def _refuse_images(X, who):
    if is_images(X):
        raise ValueError(
            f"{who} expects features, got images or paths; put an extractor before it: "
            f'Pipeline([("features", FilterBank()), ("detector", {who}())])'
        )


def check_layers(expected, got):
    """Raise ValueError unless two {layer: (h, w, C)} agree."""
    if expected != got:
        raise ValueError(
            f"expected features with layers {expected}, as in fit, got {got}; "
            "use the extractor the detector was fitted with"
        )


def choose_layers(names, layer_shapes):
    """{layer: (h, w, C)} of some layers by name; ValueError for a name that is not there."""
    unknown = [name for name in names if name not in layer_shapes]
    if unknown or not len(names):
        raise ValueError(
            f"expected layers among those of the features, {list(layer_shapes)}, got "
            f"{unknown or 'none'}; choose from these or let the extractor answer more"
        )
    return {name: layer_shapes[name] for name in names}


def good_rows(y, n_samples):
    """Indices of the images that y does not mark as defects.

    y is None, labels (+1 good, -1 defect) or masks (any True pixel: defect; None: good). Anything
    else is ignored, as scikit-learn's detectors do. Raises ValueError where none is good, or
    where labels or masks are not as many as images.
    """
    is_good = _marked_good(y)
    if is_good is None:
        return np.arange(n_samples)
    if len(is_good) != n_samples:
        raise ValueError(
            f"expected y for {n_samples} images, got labels or masks of {len(is_good)}"
        )
    if not is_good.any():
        raise ValueError("y marks every image as a defect; a detector learns from good images")
    return np.flatnonzero(is_good)


def _marked_good(y):
    """(n,) bool from labels or masks; None where y is neither."""
    if y is None or not hasattr(y, "__len__") or len(y) == 0:
        return None
    if any(one is None or np.ndim(one) == 2 for one in y):
        return np.array([one is None or not np.any(one) for one in y])
    y = np.asarray(y)
    is_labels = y.ndim == 1 and y.dtype.kind in "iuf" and np.isin(y, (-1, 1)).all()
    return y == 1 if is_labels else None


def holds_masks(y):
    """Whether the truth is given by masks rather than labels."""
    return any(entry is None or np.ndim(entry) > 0 for entry in y)


def read_labels(y, n_images):
    """Labels (n,) int, +1 good and -1 defect, from labels or masks; None where y is None."""
    if y is None:
        return None
    check_length(y, n_images)
    if holds_masks(y):
        return np.array([-1 if mask is not None and np.any(mask) else 1 for mask in y])
    labels = np.asarray(y)
    if labels.dtype.kind not in "iuf" or not np.isin(labels, (-1, 1)).all():
        raise ValueError(
            f"expected y to hold labels +1 (good) and -1 (defect), or masks, got the values "
            f"{np.unique(labels)[:5].tolist()}; if 1 marks a defect, pass np.where(y == 1, -1, 1)"
        )
    return labels.astype(int)


def check_length(y, n_images):
    """One entry of y per image."""
    if len(y) != n_images:
        raise ValueError(
            f"expected one entry of y per image, got {len(y)} for {n_images} images; pass labels "
            "or masks of the same images, in the same order"
        )


def check_decisions(decisions, n_images):
    """Decision scores (n,) float64, finite; n_images None: any number of them."""
    decisions = np.asarray(decisions, dtype=np.float64)
    expected = "(n,), at least one" if n_images is None else f"({n_images},)"
    wrong_length = decisions.size == 0 if n_images is None else len(decisions) != n_images
    if decisions.ndim != 1 or wrong_length:
        raise ValueError(
            f"expected decision scores of shape {expected}, one per image as decision_function "
            f"answers them, got shape {decisions.shape}"
        )
    if not np.isfinite(decisions).all():
        raise ValueError("decision scores hold NaN or infinity; expected finite scores")
    return decisions
