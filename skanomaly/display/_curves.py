"""scikit-learn's ROC and precision-recall displays, with a defect as what is to be found.

scikit-learn's own refuse detectors, which are no classifiers; and given a detector's labels and
scores, they take +1, the good images, for what is to be found. Of the ROC curve that turns the
picture but not the area; of precision and recall it makes another curve: how well good images
are found, which are most of them and easy.
"""

from sklearn import metrics

from skanomaly._validation import check_decisions, read_labels
from skanomaly.display._common import estimator_name, load_pyplot


class _DefectCurve:
    """Mix-in before a display of scikit-learn's: the door, the sign and the axes' names."""

    @classmethod
    def from_estimator(cls, estimator, X, y, *, name=None, **display_kw):
        """Score images and draw the curve.

        Parameters
        ----------
        estimator : fitted detector, or a Pipeline or search around one
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            Good and defective images.
        y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W)
            The truth: labels +1 good, -1 defect; or masks, True on the defect, None for a good
            image.
        name : str or None, default=None
            For the legend; None: the detector's class.
        **display_kw
            As scikit-learn's ``from_predictions``: ``ax``, ``plot_chance_level``, ``despine``,
            ``sample_weight``, ``drop_intermediate`` and others.

        Returns
        -------
        display : the same class

        Raises
        ------
        ValueError
            y is neither labels of +1 and -1 nor masks, does not fit X, or holds one class only.
        ImportError
            matplotlib is not there.
        """
        load_pyplot(f"{cls.__name__}.from_estimator")
        name = estimator_name(estimator) if name is None else name
        return cls.from_predictions(y, estimator.decision_function(X), name=name, **display_kw)

    @classmethod
    def from_predictions(cls, y, decisions, *, name="detector", **display_kw):
        """Draw the curve of scores at hand.

        Parameters
        ----------
        y
            As `from_estimator`.
        decisions : array of shape (n,)
            From `decision_function` or `score_samples`: **low for a defect**.
        name : str, default="detector"
            For the legend.
        **display_kw
            As `from_estimator`.

        Returns
        -------
        display : the same class

        Raises
        ------
        ValueError, ImportError
            As `from_estimator`.
        """
        load_pyplot(f"{cls.__name__}.from_predictions")
        decisions = check_decisions(decisions, None)
        labels = read_labels(y, len(decisions))
        if labels is None or len(set(labels.tolist())) < 2:
            raise ValueError(
                "the curve needs good and defective images, expected both in y, got "
                f"{'no y' if labels is None else 'one class only'}"
            )
        return super().from_predictions(labels, -decisions, pos_label=-1, name=name, **display_kw)

    def plot(self, ax=None, **plot_kw):
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
        super().plot(ax, **plot_kw)
        x_label, y_label = self._AXES
        self.ax_.set(xlabel=x_label, ylabel=y_label)
        return self


class RocCurveDisplay(_DefectCurve, metrics.RocCurveDisplay):
    """Share of defects found against the share of good images flagged.

    scikit-learn's :class:`sklearn.metrics.RocCurveDisplay`, with the defects as what is to be
    found. Use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    fpr, tpr : ndarray of shape (n_points,)
        Share of the good images called defect, and of the defective ones.
    roc_auc : float or None, default=None
        Area under the curve, shown in the legend.
    name : str or None, default=None
        Of the detector, shown in the legend.
    pos_label : int or None, default=None
        -1, the label of a defect.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D

    See Also
    --------
    PrecisionRecallDisplay : Where defects are rare.
    ProCurveDisplay : The curve of regions in score maps.
    skanomaly.metrics.image_roc_auc_score : The area.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skanomaly.display import RocCurveDisplay
    >>> decisions = [0.5, -0.1, 0.2, -0.7]  # below 0: called a defect
    >>> display = RocCurveDisplay.from_predictions([1, 1, -1, -1], decisions, name="mine")
    >>> display.line_.get_label()
    'mine (AUC = 0.75)'
    >>> plt.close(display.figure_)
    """

    _AXES = ("share of good images flagged", "share of defective images found")


class PrecisionRecallDisplay(_DefectCurve, metrics.PrecisionRecallDisplay):
    """Share of alarms that are right against the share of defects found.

    scikit-learn's :class:`sklearn.metrics.PrecisionRecallDisplay`, with the defects as what is to
    be found. Use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    precision, recall : ndarray of shape (n_points,)
        Share of defective images among those called so, and of the defective ones found.
    average_precision : float or None, default=None
        Shown in the legend.
    name : str or None, default=None
        Of the detector, shown in the legend.
    pos_label : int or None, default=None
        -1, the label of a defect.
    prevalence_pos_label : float or None, default=None
        Share of defective images, the chance level.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D

    See Also
    --------
    RocCurveDisplay : Does not depend on how many images are defective.
    skanomaly.metrics.image_average_precision_score : The area.

    Notes
    -----
    Precision depends on the share of defects in the test set; on a line it is mostly lower, and
    so is precision there.

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
