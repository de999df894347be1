"""Scorers for cross-validation and searches: one metric or several, each score map made once."""

import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning

from skanomaly import metrics
from skanomaly.images import is_one_mask, read_roi
from skanomaly.model_selection._synthetic_defects import SIZES, with_synthetic_defects
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
    roi: Any = None,
    synthetic: bool = False,
    kinds: Sequence[str] | None = None,
    sizes: Sequence[float] = SIZES,
    random_state: int = 0,
) -> "Scorers":
    """One metric, or several, as a scorer for whatever in scikit-learn takes ``scoring``.

    Parameters
    ----------
    *names : str
        "image_auroc", "image_ap", "image_f1_max" are computed from image scores; "pixel_auroc",
        "pixel_ap", "pixel_f1_max", "aupro" from score maps. All are better when higher.
    max_fpr : float in (0, 1], default=0.3
        Limit of the false alarms in "aupro".
    roi : None, array of shape (H, W), or image file, default=None
        Region of interest of all images, outside of which pixels do not count in the metrics of
        pixels. It is not taken from the estimator: candidates with different regions would be
        judged on different pixels, and each by the region that it chose.
    synthetic : bool, default=False
        True asks for no defects: the good images of each test part are judged as they are and
        once more, in each of some `sizes`, with a defect painted in by
        :func:`skanomaly.datasets.make_defects`. X holds images, so that the estimator is a
        Pipeline that begins with an extractor.
    kinds : sequence of str or None, default=None
        The kinds of synthetic defects, as in ``make_defects``; None: its usual ones take turns.
    sizes : sequence of float, default=(1.5,)
        Factors on the size of the synthetic defects, as in ``make_defects``: each good image gets
        a defect of each. By the default one candidates come in an order that agrees best with that
        by real defects, as was found on five sets of real images.
    random_state : int, default=0
        Draws the synthetic defects. An int, so that all candidates meet the same ones.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)``, to be passed as ``scoring``. Of one name it returns the value,
        a float, and serves wherever scikit-learn takes a scorer. Of several it returns
        ``{name: value}``, for ``cross_validate``, ``GridSearchCV`` and ``RandomizedSearchCV``; the
        searches need one of the names as ``refit``. The estimator is a detector, a Pipeline, or a
        search or HeldOutThreshold around one. Its y is:

        - masks, (n, H, W) or a list of (H, W) with None for a good image: good for all metrics;
        - labels +1 (good) and -1 (defect): good for the metrics of images;
        - with ``synthetic=True`` None, or either of these; images marked as defects are left out.

    Raises
    ------
    ValueError
        Here: if a name is unknown or none is given, or an option is out of range. When scoring:
        if a metric of pixels is asked for and y has no masks, y is coded otherwise, as 0/1, or
        there are no good images. A search turns these errors into NaN and warnings, unless it has
        ``error_score="raise"``.

    Warns
    -----
    UndefinedMetricWarning
        There are no defects: the score is NaN. So are all training scores with GoodOnlyKFold:
        those of ``learning_curve``, ``validation_curve``, ``HalvingGridSearchCV``, and of whatever
        has ``return_train_score=True``.

    See Also
    --------
    GoodOnlyKFold : Puts defects into every test part and into no training part.

    Notes
    -----
    ``cross_val_score``, ``permutation_test_score``, ``learning_curve``, ``validation_curve``,
    ``HalvingGridSearchCV`` and their kin rank by one number: give them one name. Results of one
    metric are under ``"test_score"``, those of several under ``"test_"`` and the name, as usual
    in scikit-learn. A dict of scorers, ``{"auroc": scorers("image_auroc"), ...}``, gives one
    metric a name of its own, but several in a dict make the score maps once for each of them.

    No metadata is asked for: with ``enable_metadata_routing`` groups go to the splitter alone.

    Synthetic defects rank settings where there are no real ones yet; how well the defects of
    tomorrow are found they do not tell. The user guide shows by how much their ranking agrees with
    that of real defects.

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
    sizes = [float(size) for size in sizes]
    if not sizes or not min(sizes) > 0:
        raise ValueError(f"sizes must be positive numbers, at least one, got {sizes}")
    painting = None
    if synthetic:
        painting = {"kinds": kinds, "sizes": sizes, "random_state": random_state}
    if roi is not None and not is_one_mask(roi):
        raise ValueError(
            "expected roi as one mask (H, W) or an image file, for all images, got "
            f"{type(roi).__name__}; for a mask per image call the metrics of skanomaly.metrics"
        )
    region = None if roi is None else read_roi(roi)
    return Scorers(names, check_max_fpr(max_fpr), painting, region)


class Scorers:
    """Callable that returns one metric or several; made by `scorers`."""

    def __init__(self, names, max_fpr, painting, roi=None):
        self.names = names
        self.roi = roi
        self.max_fpr = max_fpr
        self.painting = painting

    def __repr__(self):
        return f"<scorers {', '.join(self.names)}>"

    def __call__(self, estimator, X, y=None):
        return self.evaluate(estimator, *self.prepare(X, y))

    def prepare(self, X, y=None):
        """The images that estimators are judged on, and their y: with synthetic defects, if any."""
        if self.painting is None:
            return X, y
        return with_synthetic_defects(X, y, **self.painting)

    def evaluate(self, estimator, X, y):
        """The value, or {name: value}, of what ``prepare`` has returned."""
        y, n_defects = self._check_truth(y)
        values = self._score(estimator, X, y) if n_defects else self._undefined(len(y))
        return values if len(self.names) > 1 else values[self.names[0]]

    def _score(self, estimator, X, y):
        """{name: value} of images of which some are good and some defects."""
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

    def _undefined(self, n_images):
        """{name: NaN} and a warning, as scikit-learn's metrics have it for one class alone.

        No error: a training part has no defects, and several of scikit-learn's functions score it.
        """
        warnings.warn(
            f"got {n_images} good images and 0 defects, and the metrics need both: the score is "
            "NaN. That is how training scores come out where training parts hold good images "
            "only; for a test part, split with cv=GoodOnlyKFold(), which puts all defects into "
            "every test part, or use scorers(..., synthetic=True)",
            UndefinedMetricWarning,
            stacklevel=4,
        )
        return dict.fromkeys(self.names, float("nan"))

    def _score_pixels(self, name, masks, maps):
        options = {"max_fpr": self.max_fpr} if name == "aupro" else {}
        return PIXEL_METRICS[name](masks, maps, roi=self.roi, **options)

    def _check_truth(self, y):
        """y as a list, refusing what a metric would refuse, and the number of defects."""
        if y is None:
            raise ValueError(
                "the scorers need y: masks, or labels +1 (good) and -1 (defect); without any "
                "defects use scorers(..., synthetic=True)"
            )
        y = list(y)  # masks may be read from files at each access
        n_defects = int(is_defect(y).sum())
        if n_defects == len(y):
            raise ValueError(
                f"the test part holds 0 good images and {n_defects} defects, and the metrics need "
                "both; split with cv=GoodOnlyKFold(), whose test parts hold good images and all "
                "defects"
            )
        has_masks = any(entry is None or np.ndim(entry) == 2 for entry in y)
        pixel_names = [name for name in self.names if name in PIXEL_METRICS]
        if pixel_names and not has_masks:
            raise ValueError(
                f"{pixel_names[0]} needs y as masks, (n, H, W) or a list of "
                "(H, W) with None for a good image, got labels; pass the masks as y, from which "
                "the labels of the images follow"
            )
        return y, n_defects
