"""What all displays share: matplotlib, colors and the name of the detector."""

from sklearn.pipeline import Pipeline

GOOD_COLOR, DEFECT_COLOR = "#0072B2", "#D55E00"  # blue and vermilion: safe for the color-blind


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


def estimator_name(estimator):
    """Class name of the detector inside pipelines, searches and other wrappers."""
    if isinstance(estimator, Pipeline):
        return estimator_name(estimator.steps[-1][1])
    for inner in ("best_estimator_", "estimator_", "estimator"):
        if hasattr(estimator, inner):
            return estimator_name(getattr(estimator, inner))
    return type(estimator).__name__
