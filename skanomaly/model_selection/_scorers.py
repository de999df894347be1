"""Scorers for cross-validation and searches: several metrics, each score map computed once."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from skanomaly import metrics
from skanomaly.model_selection._synthetic_defects import with_synthetic_defects
from skanomaly.utils.targets import is_defect
from skanomaly.utils.unwrapping import scores_and_maps
from skanomaly.utils.validation import check_max_fpr

IMAGE_METRICS = {
    "image_auroc": metrics.image_roc_auc_score,
    "image_ap": metrics.image_average_precision_score,
    "image_f1_max": metrics.image_f1_max_score,
}
PIXEL_METRICS = {
    "pixel_auroc": metrics.pixel_roc_auc_score,
    "pixel_ap": metrics.pixel_average_precision_score,
    "pixel_f1_max": metrics.f1_max_score,
    "aupro": metrics.aupro_score,
}


def scorers(
    *names: str,
    max_fpr: float = 0.3,
    synthetic: bool = False,
    kinds: Sequence[str] | None = None,
    random_state: int = 0,
) -> "Scorers":
    """Several metrics as one scorer for ``cross_validate``, ``GridSearchCV`` and their kin.

    Parameters
    ----------
    *names : str
        "image_auroc", "image_ap", "image_f1_max" are computed from image scores; "pixel_auroc",
        "pixel_ap", "pixel_f1_max", "aupro" from score maps. All are better when higher.
    max_fpr : float in (0, 1], default=0.3
        Limit of the false alarms in "aupro".
    synthetic : bool, default=False
        True asks for no defects: the good images of each test part are judged as they are and
        once more with a defect painted in by :func:`skanomaly.datasets.make_defects`. X holds
        images, so that the estimator is a Pipeline that begins with an extractor.
    kinds : sequence of str or None, default=None
        The kinds of synthetic defects, as in ``make_defects``; None: its usual ones take turns.
    random_state : int, default=0
        Draws the synthetic defects. An int, so that all candidates meet the same ones.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)`` returns ``{name: value}``; pass it as ``scoring``, and in a
        search one of the names as ``refit``. The estimator is a detector, a Pipeline, or a search
        or HeldOutThreshold around one. Its y is:

        - masks, (n, H, W) or a list of (H, W) with None for a good image: good for all metrics;
        - labels +1 (good) and -1 (defect): good for the metrics of images;
        - with ``synthetic=True`` None, or either of these; images marked as defects are left out.

    Raises
    ------
    ValueError
        Here: if a name is unknown or none is given, or an option is out of range. When scoring:
        if a metric of pixels is asked for and y has no masks, y is coded otherwise, as 0/1, or
        the test part lacks good images or defects. A search turns these errors into NaN and
        warnings, unless it has ``error_score="raise"``.

    See Also
    --------
    GoodOnlyKFold : Puts defects into every test part and into no training part.

    Notes
    -----
    Synthetic defects rank settings where there are no real ones yet; how well the defects of
    tomorrow are found they do not tell.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV, KFold
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_textures
    >>> from skanomaly.model_selection import scorers
    >>> good = make_textures(8, size=64, random_state=0)
    >>> features = FilterBank(image_size=64, random_state=0)
    >>> pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
    >>> scoring = scorers("image_auroc", "aupro", synthetic=True)
    >>> grid = {"detector__sigma": [2.0, 8.0]}
    >>> search = GridSearchCV(pipe, grid, cv=KFold(2), scoring=scoring, refit="aupro").fit(good)
    >>> search.best_params_
    {'detector__sigma': 2.0}
    """
    known = [*IMAGE_METRICS, *PIXEL_METRICS]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"expected names of metrics out of {known}, got {unknown or 'none'}")
    if not isinstance(random_state, Integral):
        raise ValueError(
            f"random_state is {random_state!r}; expected an int, so that all candidates of a "
            "search are judged on the same synthetic defects"
        )
    painting = {"kinds": kinds, "random_state": random_state} if synthetic else None
    return Scorers(names, check_max_fpr(max_fpr), painting)


class Scorers:
    """Callable that returns several metrics; made by `scorers`."""

    def __init__(self, names, max_fpr, painting):
        self.names = names
        self.max_fpr = max_fpr
        self.painting = painting

    def __repr__(self):
        return f"<scorers {', '.join(self.names)}>"

    def __call__(self, estimator, X, y=None):
        if self.painting is not None:
            X, y = with_synthetic_defects(X, y, **self.painting)
        y = self._check_truth(y)
        image_names = [name for name in self.names if name in IMAGE_METRICS]
        pixel_names = [name for name in self.names if name in PIXEL_METRICS]
        if pixel_names:
            scores, maps = scores_and_maps(estimator, X)
        else:
            scores = estimator.score_samples(X)
        values = {name: IMAGE_METRICS[name](y, -scores) for name in image_names}
        for name in pixel_names:
            values[name] = self._score_pixels(name, y, maps)
        return {name: values[name] for name in self.names}

    def _score_pixels(self, name, masks, maps):
        options = {"max_fpr": self.max_fpr} if name == "aupro" else {}
        return PIXEL_METRICS[name](masks, maps, **options)

    def _check_truth(self, y):
        """y as a list, refusing what a metric would refuse, with advice for a search."""
        if y is None:
            raise ValueError(
                "the scorers need y: masks, or labels +1 (good) and -1 (defect); without any "
                "defects use scorers(..., synthetic=True)"
            )
        y = list(y)  # masks may be read from files at each access
        defective = is_defect(y)
        if defective.all() or not defective.any():
            raise ValueError(
                f"the test part holds {np.sum(~defective)} good images and {np.sum(defective)} "
                "defects, and the metrics need both; split with cv=GoodOnlyKFold(), which puts "
                "all defects into every test part, or use scorers(..., synthetic=True)"
            )
        has_masks = any(entry is None or np.ndim(entry) == 2 for entry in y)
        pixel_names = [name for name in self.names if name in PIXEL_METRICS]
        if pixel_names and not has_masks:
            raise ValueError(
                f"{pixel_names[0]} needs y as masks, (n, H, W) or a list of "
                "(H, W) with None for a good image, got labels; pass the masks as y, from which "
                "the labels of the images follow"
            )
        return y
