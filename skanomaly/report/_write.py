"""write: from an estimator and images to a report on disk."""

from sklearn.utils import gen_batches
from tqdm import tqdm

from skanomaly._files import check_target
from skanomaly._heat_maps import limits_of_good
from skanomaly._images import check_images, titles
from skanomaly._validation import read_labels
from skanomaly.pipeline import decisions_and_maps, outermost
from skanomaly.regions import map_regions
from skanomaly.report._reasons import Reasons
from skanomaly.report._report import Report


def write(
    path,
    estimator,
    X,
    y=None,
    *,
    names=None,
    good=None,
    good_names=None,
    n_peaks=1,
    threshold=None,
    title="Inspection report",
    batch_size=64,
    verbose=0,
    **report_kw,
):
    """Score images and save the report on them as one HTML file.

    Parameters
    ----------
    path : str or Path
        The file to write; one that is there already is replaced. Its folder exists.
    estimator : fitted detector, or a Pipeline, search or HeldOutThreshold around one
        It takes images.
    X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        An empty list makes a report that says so.
    y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W), or None, default=None
        The truth, where it is known: labels +1 good, -1 defect; or masks, True on the defect.
    names : sequence of str or None, default=None
        What the report calls the images; None: folder and file name, or their places.
    good : list of paths, arrays or PIL images, or array of shape (n, H, W[, C]), default=None
        The X of the estimator's fit, in the same order. Pictures called or known to be defective
        are then shown with the good patches nearest to their hot spots.
    good_names : sequence of str or None, default=None
        What the report calls them.
    n_peaks : int, default=1
        Hot spots per image, at most.
    threshold : float or None, default=None
        Threshold on the score map, for the regions. None: the estimator's ``map_offset_``; where
        it has none, the report lists no regions.
    title : str, default="Inspection report"
    batch_size : int, default=64
        Images scored at a time: their maps are never all in memory.
    verbose : int, default=0
        Above 0 a progress bar is shown.
    **report_kw
        Passed to :class:`Report`: ``note``, limits of colours, sizes. The colours' limits come
        from the held-out maps of a :class:`~skanomaly.model_selection.HeldOutThreshold`, so that
        a colour means the same score in all its reports; other estimators': from the maps of X.

    Returns
    -------
    Path

    Raises
    ------
    OSError
        The file cannot be written; where this can be known before, nothing is scored.
    ValueError
        An image cannot be read, or y, names or `good` do not fit.
    TypeError
        `good` is given and the detector keeps no good patches.
    ImportError
        jinja2 is not there.

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
    check_target(path)
    threshold = outermost(estimator, "map_offset_") if threshold is None else threshold
    limits = _limits(estimator)
    report = Report(**{"title": title, "map_threshold": threshold, **limits, **report_kw})
    if hasattr(X, "__len__") and not isinstance(X, str) and len(X) == 0:
        return report.save(path)
    images = check_images(X)
    names, labels = titles(images, names), read_labels(y, len(images))
    reasons = None if good is None else Reasons(estimator, good, good_names, n_peaks)
    with tqdm(total=len(images), desc="pictures", disable=not verbose) as bar:
        for part in gen_batches(len(images), batch_size):
            places = range(part.start, part.stop)
            _add(report, places, images, names, labels, estimator, threshold, reasons)
            bar.update(len(places))
    return report.save(path)


def _add(report, places, images, names, labels, estimator, threshold, reasons):
    """Score a few images and add them to the report."""
    batch = [images[i] for i in places]
    truth = [None] * len(batch) if labels is None else [labels[i] for i in places]
    decisions, maps = decisions_and_maps(estimator, batch)
    regions = [[] for _ in batch]
    for region in [] if threshold is None else map_regions(maps, threshold):
        regions[region["image"]].append(region)
    odd = [k for k in range(len(batch)) if decisions[k] < 0 or truth[k] == -1]
    neighbours = [[] for _ in batch] if reasons is None else reasons.of(batch, odd)
    for k, i in enumerate(places):
        report.add(
            images[i],
            maps[k],
            decisions[k],
            name=names[i],
            label=truth[k],
            regions=regions[k],
            neighbours=neighbours[k],
        )


def _limits(estimator):
    """Limits of the colours from held-out good images, where the estimator has them."""
    maxima, threshold = (outermost(estimator, name) for name in ("oof_map_maxima_", "map_offset_"))
    if maxima is None or threshold is None:
        return {}
    return dict(zip(("vmin", "vmax"), limits_of_good(maxima, threshold), strict=True))
