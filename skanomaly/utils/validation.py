"""Input validation; the only importer of scikit-learn's private names."""

import copy
import functools
from numbers import Integral, Real

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.metaestimators import _BaseComposition as NamedEstimators
from sklearn.utils.validation import validate_data

from skanomaly.utils.state import exchanged

__all__ = [
    "IMAGE_SIZE",
    "Interval",
    "NamedEstimators",
    "StrOptions",
    "check_array_input",
    "check_decisions",
    "check_layers",
    "check_max_fpr",
    "choose_layers",
    "fitting",
    "is_images",
    "is_valid_parameter",
    "options_of",
]

# Constraints of the parameter image_size: one side, or height and width, in pixels.
IMAGE_SIZE = [Interval(Integral, 8, None, closed="left"), "array-like"]
# Sums of squares of thousands of such features are numbers of float32.
LARGEST_FEATURE = 1e17


def fitting(*, nested=False, incremental=False, keep_after=()):
    """Decorator of ``fit`` and ``partial_fit``: what one changes, it changes at its end, at once.

    Parameters are validated first. A fit then works on a copy of the estimator, without the state
    learned before, so that it can neither mix with it nor change it in place; a partial fit starts
    from a copy of that state; attributes that the class names in ``_replaced_by_updates``, as it
    never changes them in place, are shared instead. At the end the estimator gets the copy's state,
    in a single step that no thread can look into. Whatever is raised, an interrupt as well, it has
    the state that it had before.

    Parameters
    ----------
    nested : bool
        Whether parameters of the estimators that this one fits are validated once more.
    incremental : bool
        Whether the method adds to the learned state, as ``partial_fit`` does.
    keep_after : kind of exception, or tuple of them
        Those after which what was learned so far is kept.
    """

    def decorate(fit):
        @functools.wraps(fit)
        def fit_at_once(self, *args, **kwargs):
            with exchanged(self, keep_after=keep_after) as fresh:
                attributes = vars(fresh)
                for name in attributes.keys() - self.get_params(deep=False).keys():
                    if name.endswith("_") or name in getattr(self, "_transient", ()):
                        before = attributes.pop(name)
                        if incremental and name.endswith("_"):
                            is_replaced = name in getattr(self, "_replaced_by_updates", ())
                            attributes[name] = before if is_replaced else copy.deepcopy(before)
                result = fit(fresh, *args, **kwargs)
            return self if result is fresh else result

        return _fit_context(prefer_skip_nested_validation=not nested)(fit_at_once)

    return decorate


def check_array_input(estimator, X, *, reset):
    """Plain arrays given to a detector as (n, h, w, d) float32.

    (n, d) is n images of one patch each. Raises ValueError for anything that looks like images.
    """
    _refuse_images(X, type(estimator).__name__)
    if getattr(X, "ndim", 2) <= 2:
        X = validate_data(estimator, X, reset=reset, dtype=np.float32)
        _refuse_large(X)
        return X[:, None, None, :]
    if X.ndim != 4 or 0 in X.shape:
        raise ValueError(
            f"expected feature arrays of shape (n, d) or (n, h, w, d), got shape {X.shape}; "
            "a single image's features (h, w, d) become a batch with X[None]"
        )
    # n_features_in_ of a 4-D array would be the grid's height, so channels are checked here.
    if np.iscomplexobj(X):
        raise ValueError("expected real features, got complex numbers; pass their absolute values")
    X = np.asarray(X, dtype=np.float32)
    if not np.isfinite(X).all():
        raise ValueError("expected finite features, got NaN or infinity in the input")
    _refuse_large(X)
    if reset:
        estimator.n_features_in_ = X.shape[3]
    elif X.shape[3] != estimator.n_features_in_:
        raise ValueError(
            f"expected features with {estimator.n_features_in_} channels, as in fit, "
            f"got {X.shape[3]}; use the extractor the detector was fitted with"
        )
    return X


def is_images(X):
    """Whether X looks like images or paths rather than features."""
    is_row = getattr(X, "ndim", 0) == 1 and getattr(X, "dtype", np.dtype(float)).kind in "OUST"
    first = None
    if (isinstance(X, (list, tuple)) or is_row) and len(X):
        first = X.iloc[0] if hasattr(X, "iloc") else X[0]
    is_path = isinstance(first, str) or hasattr(first, "__fspath__")
    is_file = isinstance(first, (bytes, bytearray, memoryview)) or hasattr(first, "read")
    is_image = type(first).__module__.startswith("PIL.") or getattr(first, "ndim", 0) >= 2
    is_pixels = isinstance(X, np.ndarray) and X.ndim in (3, 4) and X.dtype in (np.uint8, np.uint16)
    return is_path or is_file or is_image or is_pixels or isinstance(X, str)


def _refuse_large(X):
    if X.size and (largest := max(X.max(), -X.min())) > LARGEST_FEATURE:
        raise ValueError(
            f"expected features up to {LARGEST_FEATURE:g}, whose squares can be summed in float32, "
            f"got {largest:g}; scale them"
        )


def _refuse_images(X, who):
    if is_images(X):
        raise ValueError(
            f"{who} expects features, got images or paths; put an extractor before it: "
            f'Pipeline([("features", FilterBank()), ("detector", {who}())])'
        )


def check_layers(expected, got):
    """Raise ValueError unless two {layer: (h, w, C)} agree."""
    if list(expected.items()) != list(got.items()):  # vectors join layers in their order
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
            f"{unknown or 'none'}; choose from these, or have the extractor return more layers"
        )
    return {name: layer_shapes[name] for name in names}


def check_decisions(decisions, n_images):
    """Decision scores (n,) float64, finite; n_images None: any number of them."""
    decisions = np.asarray(decisions, dtype=np.float64)
    expected = "(n,), at least one" if n_images is None else f"({n_images},)"
    wrong_length = decisions.size == 0 if n_images is None else len(decisions) != n_images
    if decisions.ndim != 1 or wrong_length:
        raise ValueError(
            f"expected decision scores of shape {expected}, one per image as decision_function "
            f"returns them, got shape {decisions.shape}"
        )
    if not np.isfinite(decisions).all():
        raise ValueError("decision scores hold NaN or infinity; expected finite scores")
    return decisions


def is_valid_parameter(constraints, name, value):
    """Whether an estimator's constraints on a parameter, or None, allow a value."""
    if constraints is None:
        return True
    try:
        validate_parameter_constraints({name: constraints}, {name: value}, "check")
    except InvalidParameterError:
        return False
    return True


def options_of(constraints):
    """The strings that constraints on a parameter name."""
    found = [c.options for c in constraints or () if isinstance(c, StrOptions)]
    return set().union(*found)


def check_max_fpr(max_fpr):
    """The limit of the false alarms, if it lies in (0, 1]."""
    if not isinstance(max_fpr, Real) or not 0 < max_fpr <= 1:
        raise ValueError(
            f"max_fpr is {max_fpr!r}; expected a share of the good pixels, above 0 and up to 1, "
            "such as 0.3."
        )
    return float(max_fpr)
