"""scikit-learn's ROC and precision-recall displays, with defects as the positive class.

scikit-learn's own displays refuse detectors, which are not classifiers. From a detector's labels
and scores they would take +1, the good images, as the positive class. This rotates the ROC curve
and leaves its area; but precision and recall would then measure how well good images are found,
which is easy since most images are good.
"""

from typing import Any, Self

from sklearn import metrics

from skanomaly.display._common import estimator_name, load_pyplot
from skanomaly.utils.targets import read_labels
from skanomaly.utils.validation import check_decisions


class _DefectCurve:
    """Mixin that comes before a display of scikit-learn's: input, sign and labels of the axes."""

    _AXES: tuple[str, str]
    ax_: Any

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, name: str | None = None, **display_kw: Any
    ) -> Self:
        """Score images and draw the curve.

        Parameters
        ----------
        estimator : fitted detector, or a Pipeline or search around one
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            Good and defective images.
        y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W)
            Ground truth: labels, +1 good and -1 defect; or masks, True on the defect, with None
            for a good image.
        name : str or None, default=None
            Name in the legend; None: the detector's class.
        **display_kw
            As scikit-learn's ``from_predictions``: ``ax``, ``plot_chance_level``, ``despine``,
            ``sample_weight``, ``drop_intermediate`` and others.

        Returns
        -------
        display : the same class

        Raises
        ------
        ValueError
            y is neither labels of +1 and -1 nor masks, has another length than X, or has only one
            class.
        ImportError
            matplotlib is not installed.
        """
        load_pyplot(f"{cls.__name__}.from_estimator")
        name = estimator_name(estimator) if name is None else name
        return cls.from_predictions(y, estimator.decision_function(X), name=name, **display_kw)

    @classmethod
    def from_predictions(
        cls, y: Any, decisions: Any, *, name: str = "detector", **display_kw: Any
    ) -> Self:
        """Draw the curve of given scores.

        Parameters
        ----------
        y : array of shape (n,), or masks
            As in `from_estimator`.
        decisions : array of shape (n,)
            From `decision_function` or `score_samples`: **low for a defect**.
        name : str, default="detector"
            Name in the legend.
        **display_kw
            As in `from_estimator`.

        Returns
        -------
        display : the same class

        Raises
        ------
        ValueError, ImportError
            As in `from_estimator`.
        """
        load_pyplot(f"{cls.__name__}.from_predictions")
        decisions = check_decisions(decisions, None)
        labels = read_labels(y, len(decisions))
        if labels is None or len(set(labels.tolist())) < 2:
            raise ValueError(
                "the curve needs good and defective images; expected y with both classes, got "
                f"{'no y' if labels is None else 'only one class'}"
            )
        display: Any = super()  # scikit-learn's
        return display.from_predictions(labels, -decisions, pos_label=-1, name=name, **display_kw)

    def plot(self, ax: Any = None, **plot_kw: Any) -> Self:
        """Draw; several displays may share one axes.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            None makes a new figure.
        **plot_kw
            As scikit-learn's ``plot``.

        Returns
        -------
        self : the same class
        """
        display: Any = super()  # scikit-learn's
        display.plot(ax, **plot_kw)
        x_label, y_label = self._AXES
        self.ax_.set(xlabel=x_label, ylabel=y_label)
        return self


class RocCurveDisplay(_DefectCurve, metrics.RocCurveDisplay):
    """Share of defects found against the share of good images flagged.

    scikit-learn's :class:`sklearn.metrics.RocCurveDisplay`, with defects as the positive class.
    Use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    fpr, tpr : ndarray of shape (n_points,)
        Share of the good images, and of the defective ones, predicted as defects.
    roc_auc : float or None, default=None
        Area under the curve, shown in the legend.
    name : str or None, default=None
        Name of the detector, shown in the legend.
    pos_label : int or None, default=None
        -1, the label of a defect.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D

    See Also
    --------
    PrecisionRecallDisplay : Better suited if defects are rare.
    ProCurveDisplay : The curve for regions in score maps.
    skanomaly.metrics.image_roc_auc_score : The area.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skanomaly.display import RocCurveDisplay
    >>> decisions = [0.5, -0.1, 0.2, -0.7]  # below 0: defect
    >>> display = RocCurveDisplay.from_predictions([1, 1, -1, -1], decisions, name="mine")
    >>> display.line_.get_label()
    'mine (AUC = 0.75)'
    >>> plt.close(display.figure_)
    """

    _AXES = ("share of good images flagged", "share of defective images found")


class PrecisionRecallDisplay(_DefectCurve, metrics.PrecisionRecallDisplay):
    """Share of alarms that are right against the share of defects found.

    scikit-learn's :class:`sklearn.metrics.PrecisionRecallDisplay`, with defects as the positive
    class. Use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    precision, recall : ndarray of shape (n_points,)
        Share of the flagged images that are defective, and of the defective ones that are flagged.
    average_precision : float or None, default=None
        Shown in the legend.
    name : str or None, default=None
        Name of the detector, shown in the legend.
    pos_label : int or None, default=None
        -1, the label of a defect.
    prevalence_pos_label : float or None, default=None
        Share of defective images: the chance level.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D

    See Also
    --------
    RocCurveDisplay : Does not depend on the share of defective images.
    skanomaly.metrics.image_average_precision_score : The area.

    Notes
    -----
    Precision depends on the share of defects in the test set. In production this share is usually
    lower, and so is precision.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skanomaly.display import PrecisionRecallDisplay
    >>> decisions = [0.5, -0.1, 0.2, -0.7]  # precision 1/1 at -0.7, and 2/3 at 0.2
    >>> display = PrecisionRecallDisplay.from_predictions([1, 1, -1, -1], decisions, name="mine")
    >>> display.line_.get_label()
    'mine (AP = 0.83)'
    >>> plt.close(display.figure_)
    """

    _AXES = (
        "share of defective images found (recall)",
        "share of alarms that are right (precision)",
    )
