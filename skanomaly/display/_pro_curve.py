"""ProCurveDisplay: per-region overlap against the false positive rate."""

from typing import Any, Self

import numpy as np
from sklearn.metrics import auc

from skanomaly.display._common import axes_and_figure, estimator_name, load_pyplot
from skanomaly.metrics import pro_curve
from skanomaly.pipeline import score_map

_MAX_POINTS = 2000  # that are drawn; an exact curve can have millions


class ProCurveDisplay:
    """Per-region overlap (PRO) against the false positive rate.

    Use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    fpr : ndarray of shape (n_points,)
        Share of good pixels predicted as defects, ascending from 0.
    pro : ndarray of shape (n_points,)
        Mean share of a defect region that is found.
    aupro : float or None, default=None
        Area under the curve divided by its width, shown in the legend.
    name : str or None, default=None
        Name of the detector, shown in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D

    See Also
    --------
    skanomaly.metrics.pro_curve : The points of the curve.
    skanomaly.metrics.aupro_score : The area under it.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skanomaly.display import ProCurveDisplay
    >>> mask = [[1, 0, 0], [0, 0, 0], [0, 1, 1]]
    >>> scores = [[9, 1, 1], [1, 5, 1], [1, 9, 3]]
    >>> display = ProCurveDisplay.from_predictions([mask], [scores], max_fpr=1.0, name="mine")
    >>> display.line_.get_label()
    'mine (AUPRO = 0.958)'
    >>> plt.close(display.figure_)
    """

    def __init__(self, fpr, pro, *, aupro=None, name=None):
        self.fpr = fpr
        self.pro = pro
        self.aupro = aupro
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        max_fpr: float = 0.3,
        roi: Any = None,
        name: str | None = None,
        ax: Any = None,
        curve_kwargs: dict | None = None,
    ) -> Self:
        """Score images and draw the curve.

        Parameters
        ----------
        estimator : fitted detector, or a Pipeline or search around one
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            Good and defective images.
        y : masks of shape (n, H, W), or a list of (H, W)
            True on the defect; None for a good image.
        max_fpr : float in (0, 1], default=0.3
            Where the curve ends.
        roi : None, array of shape (H, W), or list of n arrays (H, W), default=None
            Pixels that count, as in `skanomaly.metrics.pro_curve`; not the estimator's own region.
        name : str or None, default=None
            Name in the legend; None: the detector's class.
        ax : matplotlib Axes or None, default=None
            None makes a new figure.
        curve_kwargs : dict or None, default=None
            Keyword arguments of `plot` for the line.

        Returns
        -------
        display : ProCurveDisplay

        Raises
        ------
        ValueError
            As in `skanomaly.metrics.pro_curve`.
        ImportError
            matplotlib is not installed.
        """
        load_pyplot(f"{cls.__name__}.from_estimator")
        return cls.from_predictions(
            y,
            score_map(estimator, X),
            max_fpr=max_fpr,
            roi=roi,
            name=estimator_name(estimator) if name is None else name,
            ax=ax,
            curve_kwargs=curve_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        masks: Any,
        score_maps: Any,
        *,
        max_fpr: float = 0.3,
        roi: Any = None,
        name: str | None = None,
        ax: Any = None,
        curve_kwargs: dict | None = None,
    ) -> Self:
        """Draw the curve of given score maps.

        Parameters
        ----------
        masks : array of shape (n, H, W), or list of (H, W)
            True on the defect; None for a good image.
        score_maps : array of shape (n, H, W), or list of (H, W)
            High for a defect.
        max_fpr, roi, name, ax, curve_kwargs
            As in `from_estimator`.

        Returns
        -------
        display : ProCurveDisplay

        Raises
        ------
        ValueError, ImportError
            As in `from_estimator`.
        """
        load_pyplot(f"{cls.__name__}.from_predictions")
        fpr, pro, _ = pro_curve(masks, score_maps, max_fpr=max_fpr, roi=roi)
        display = cls(fpr, pro, aupro=auc(fpr, pro) / fpr[-1], name=name)
        return display.plot(ax=ax, curve_kwargs=curve_kwargs)

    def plot(
        self, ax: Any = None, *, name: str | None = None, curve_kwargs: dict | None = None
    ) -> Self:
        """Draw; several displays may share one axes.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            None makes a new figure.
        name : str or None, default=None
            Name in the legend; None: the display's own.
        curve_kwargs : dict or None, default=None
            Keyword arguments of `plot` for the line.

        Returns
        -------
        self : ProCurveDisplay
        """
        self.ax_, self.figure_ = axes_and_figure(f"{type(self).__name__}.plot", ax)
        name = self.name if name is None else name
        area = None if self.aupro is None else f"AUPRO = {self.aupro:.3f}"
        label = f"{name} ({area})" if name and area else name or area
        points = _thinned(self.fpr, self.pro)
        style = {"label": label, "linewidth": 2, **(curve_kwargs or {})}
        (self.line_,) = self.ax_.plot(self.fpr[points], self.pro[points], **style)
        self.ax_.set(
            xlabel="False positive rate (share of good pixels)",
            ylabel="Per-region overlap",
            xlim=(0, self.fpr[-1]),
            ylim=(0, 1.02),
        )
        self.ax_.grid(alpha=0.3)
        if style["label"] is not None:
            self.ax_.legend(loc="lower right")
        return self


def _thinned(fpr, pro):
    """Indices of at most _MAX_POINTS points, evenly spaced along the curve, with both ends."""
    if len(fpr) <= _MAX_POINTS:
        return np.arange(len(fpr))
    length = fpr / fpr[-1] + pro  # both ascend
    places = np.linspace(length[0], length[-1], _MAX_POINTS)
    return np.unique(np.append(np.searchsorted(length, places[:-1]), len(fpr) - 1))
