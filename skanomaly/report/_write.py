"""write: score images and save a report on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.utils import gen_batches
from tqdm import tqdm

from skanomaly.images import check_images, limits_of_good, titles
from skanomaly.io import check_writable
from skanomaly.regions import map_regions
from skanomaly.report._builder import Report
from skanomaly.report._explanations import Explainer
from skanomaly.utils.targets import holds_masks, read_labels
from skanomaly.utils.unwrapping import (
    image_threshold,
    innermost,
    outermost,
    regions_of_interest,
    scores_and_maps,
)


def write(
    path: str | Path,
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    names: Sequence[str] | None = None,
    good: Any = None,
    good_names: Sequence[str] | None = None,
    n_peaks: int = 1,
    threshold: float | None = None,
    title: str = "Inspection report",
    batch_size: int = 64,
    verbose: int = 0,
    **report_kw: Any,
) -> Path:
    """Score images and save a report on them as one HTML file.

    Images are scored in batches, and the features of each image are computed once.

    Parameters
    ----------
    path : str or Path
        The file to write, in an existing folder; an existing file is replaced.
    estimator : fitted detector, or a Pipeline, search or HeldOutThreshold around one
        It takes images.
    X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        An empty list makes an empty report.
    y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W), or None, default=None
        Ground truth, if known: labels, +1 good and -1 defect; or masks, True on the defect, which
        are drawn as outlines.
    names : sequence of str or None, default=None
        Names of the images in the report; None: folder and file name, or their places.
    good : list of paths, arrays or PIL images, or array of shape (n, H, W[, C]), default=None
        The X of the estimator's fit, in the same order. Images predicted or labeled as defective
        are then shown with the good patches nearest to their hot spots.
    good_names : sequence of str or None, default=None
        Names of the good images.
    n_peaks : int, default=1
        Maximum number of hot spots per image.
    threshold : float or None, default=None
        Threshold on score maps for the regions. None: the estimator's ``map_offset_``; without
        one, the report lists no regions.
    title : str, default="Inspection report"
        Title of the report.
    batch_size : int, default=64
        Number of images scored at a time, whose features and score maps are held in memory.
    verbose : int, default=0
        1 shows a progress bar.
    **report_kw
        Passed to :class:`Report`, such as ``note``, ``vmin`` and ``vmax``. By default the limits
        of the colors are computed from the held-out maps of a
        :class:`~skanomaly.model_selection.HeldOutThreshold`, so that a color means the same score
        in all its reports; for other estimators, from the maps of X.

    Returns
    -------
    Path

    Raises
    ------
    OSError
        The file cannot be written. Most causes are found before any image is scored.
    ValueError
        An image cannot be read; y or names do not fit X; or `good` is not the X of the estimator's
        fit.
    TypeError
        `good` is given and the detector does not keep good patches.
    NotFittedError
        The estimator is not fitted, or has no threshold.
    ImportError
        jinja2 is not installed.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from skanomaly import FilterBank, PatchCore, Pipeline, report
    >>> from skanomaly.datasets import make_inspection
    >>> data = make_inspection(6, 2, 2, size=64, random_state=0)
    >>> pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", PatchCore())])
    >>> pipe.fit(data.train.images)
    Pipeline(...)
    >>> with TemporaryDirectory() as folder:
    ...     path = report.write(f"{folder}/batch.html", pipe, data.test.images, data.test.target)
    ...     path.name
    'batch.html'
    """
    check_writable(path)
    threshold = outermost(estimator, "map_offset_") if threshold is None else threshold
    limits = limits_of(estimator)
    report = Report(**{"title": title, "map_threshold": threshold, **limits, **report_kw})
    if hasattr(X, "__len__") and not isinstance(X, str) and len(X) == 0:
        return report.save(path)
    images = check_images(X)
    names, labels = titles(images, names), read_labels(y, len(images))
    has_masks = y is not None and holds_masks(y)
    labels = [None] * len(images) if labels is None else labels
    explainer = None
    if good is not None:
        explainer = Explainer(estimator, good, good_names=good_names, n_peaks=n_peaks)
    with tqdm(total=len(images), desc="images", disable=not verbose) as bar:
        for part in gen_batches(len(images), batch_size):
            batch = [images[i] for i in range(part.start, part.stop)]
            findings = _inspect(estimator, batch, labels[part], threshold, explainer)
            rois = regions_of_interest(estimator, batch)
            for i, (found, roi) in enumerate(zip(findings, rois, strict=True), part.start):
                mask = y[i] if has_masks else None
                report.add(images[i], name=names[i], mask=mask, roi=roi, **found)
            bar.update(len(batch))
    return report.save(path)


def _inspect(estimator, images, labels, threshold, explainer):
    """Score images; returns for each the keyword arguments of Report.add."""
    offset = image_threshold(estimator)
    detector, features = innermost(estimator, images)
    scores, maps = scores_and_maps(detector, features)
    decisions = scores - offset
    regions = [[] for _ in images]
    for region in [] if threshold is None else map_regions(maps, threshold):
        regions[region["image"]].append(region)
    nearest_good = [[] for _ in images]
    if explainer is not None:
        defective = [i for i in range(len(images)) if decisions[i] < 0 or labels[i] == -1]
        nearest_good = explainer.explain(features, defective)
    keys = "score_map", "decision", "label", "regions", "nearest_good"
    columns = zip(maps, decisions, labels, regions, nearest_good, strict=True)
    return [dict(zip(keys, values, strict=True)) for values in columns]


def limits_of(estimator):
    """Limits of the colors from held-out good images, if the estimator has them."""
    maxima, threshold = (outermost(estimator, name) for name in ("oof_map_maxima_", "map_offset_"))
    if maxima is None or threshold is None:
        return {}
    return dict(zip(("vmin", "vmax"), limits_of_good(maxima, threshold), strict=True))
