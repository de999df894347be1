"""What all displays share: matplotlib, colours, and the truth as a user hands it over."""

import numpy as np
from sklearn.pipeline import Pipeline

GOOD_COLOUR, DEFECT_COLOUR = "#0072B2", "#D55E00"  # blue and vermilion: for colour-blind eyes too


def load_pyplot(caller):
    """matplotlib.pyplot, or an error that says how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{caller} needs matplotlib; install it with: pip install skanomaly[plot]"
        ) from error
    return plt


def axes_and_figure(caller, ax):
    """The axes to draw on, new ones where none are given, and their figure."""
    plt = load_pyplot(caller)
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    return ax, ax.figure


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


def estimator_name(estimator):
    """Class name of the detector inside pipelines, searches and other wrappers."""
    if isinstance(estimator, Pipeline):
        return estimator_name(estimator.steps[-1][1])
    for inner in ("best_estimator_", "estimator_", "estimator"):
        if hasattr(estimator, inner):
            return estimator_name(getattr(estimator, inner))
    return type(estimator).__name__
