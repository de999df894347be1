"""Two detectors on the same images: where they disagree, how strongly, and which one is right."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest
from sklearn.utils import gen_batches
from tqdm import tqdm

from skanomaly.exceptions import ImageError
from skanomaly.images import check_images, limits_of_levels, map_levels, read_image, titles, to_rgb
from skanomaly.io import atomic_file, name_disk_errors, text_cell
from skanomaly.report._images import encode, encode_map, shrink, shrink_map, under_heat_map
from skanomaly.report._outlines import outline_of
from skanomaly.report._page import load_template, render_comparison
from skanomaly.report._write import limits_of
from skanomaly.utils.notebooks import html_image, html_table, html_text
from skanomaly.utils.state import snapshot
from skanomaly.utils.targets import holds_masks, read_labels
from skanomaly.utils.unwrapping import (
    image_threshold,
    outermost,
    regions_of_interest,
    scores_and_maps_in_parts,
)

_SIDE = 320  # pixels of an image in the page, at most
_N_SHOWN = 5  # images in notebooks
_AGREEMENTS = ("both_defect", "only_a_defect", "only_b_defect", "both_good")
_RIGHTS = ("both_right", "only_a_right", "only_b_right", "both_wrong")
_VERDICTS = {1: "good", -1: "defect"}
_COLUMNS = (
    "name", "label", "verdict_a", "verdict_b", "score_a", "score_b", "relative_a", "relative_b",
    "differs", "right",
)  # fmt: skip


class View(NamedTuple):
    """What a page shows of an image: WebP files of it and of its heat maps by both detectors.

    And outlines, as paths in pixels of the image, whose shape is (H, W): of the ground truth, and
    of each detector's region of interest.
    """

    image: bytes
    first: bytes
    second: bytes
    shape: tuple[int, int]
    truth: str
    regions: tuple[str, str]


@dataclass(repr=False)
class Comparison:
    """Result of :func:`compare`: verdicts of two detectors, A and B, on the same images.

    Attributes
    ----------
    names : list of n str
        Names of the images.
    detectors : tuple of two str
        Names of A and B.
    decisions : ndarray of shape (n, 2), float64
        From each one's ``decision_function``: below 0 for a defect.
    relative : ndarray of shape (n, 2), float64
        The same by one measure for both: 0 at the threshold, 1 at a typical good image. It is the
        decision divided by the median decision of the detector's held-out good images; of a
        detector without such, of those of the images given that it predicts as good. Where the
        threshold lies above most good images, it is divided by the median of its absolute values.
    labels : ndarray of shape (n,), int, or None
        Ground truth, +1 good and -1 defect.
    views : dict of int to View
        For images with differing verdicts, by their places: the image and both heat maps.
    """

    names: list
    detectors: tuple
    decisions: np.ndarray
    relative: np.ndarray
    labels: np.ndarray | None
    views: dict

    @property
    def verdicts(self) -> np.ndarray:
        """(n, 2) int, +1 good and -1 defect."""
        return np.where(self.decisions < 0, -1, 1)

    @property
    def differs(self) -> np.ndarray:
        """(n,) bool, whether the verdicts differ."""
        return self.verdicts[:, 0] != self.verdicts[:, 1]

    @property
    def order(self) -> np.ndarray:
        """(n,) int, places of the images: first where verdicts differ, then by how strongly."""
        gap = np.abs(self.relative[:, 0] - self.relative[:, 1])
        return np.lexsort((-gap, ~self.differs))

    @property
    def counts(self) -> dict:
        """Numbers of images, as a dict.

        Of the verdicts: ``both_good``, ``both_defect``, ``only_a_defect``, ``only_b_defect``. With
        labels also ``good`` and ``defects``, each a dict of ``both_right``, ``only_a_right``,
        ``only_b_right`` and ``both_wrong``.
        """
        counts: dict = dict(zip(_AGREEMENTS, _count(self.verdicts == -1), strict=True))
        for name, label in (("good", 1), ("defects", -1)) if self.labels is not None else ():
            is_right = self.verdicts[self.labels == label] == label
            counts[name] = dict(zip(_RIGHTS, _count(is_right), strict=True))
        return counts

    @property
    def pvalue(self) -> float | None:
        """Exact p-value of McNemar's test, two-sided; None without labels.

        The probability that two detectors that are right equally often differ at least as much in
        how often one of them alone is right.
        """
        if self.labels is None:
            return None
        good, defects = (self.counts[kind] for kind in ("good", "defects"))
        n_a, n_b = (good[key] + defects[key] for key in ("only_a_right", "only_b_right"))
        return float(binomtest(n_a, n_a + n_b).pvalue) if n_a + n_b else 1.0

    def records(self) -> list[dict]:
        """Table of the images, in the order of ``order``.

        Returns
        -------
        list of n dict
            With ``name``, ``label`` ("good", "defect" or ""), ``verdict_a``, ``verdict_b``,
            ``score_a``, ``score_b`` (decisions), ``relative_a``, ``relative_b``, ``differs``, and
            ``right``: "a", "b", "both" or "neither", or "" without labels.
        """
        verdicts, differs = self.verdicts, self.differs
        records = []
        for i in self.order.tolist():
            label = None if self.labels is None else int(self.labels[i])
            texts = "" if label is None else _VERDICTS[label], *(_VERDICTS[v] for v in verdicts[i])
            right = "" if label is None else _right(*(verdicts[i] == label))
            numbers = *self.decisions[i].tolist(), *self.relative[i].tolist()
            values = self.names[i], *texts, *numbers, bool(differs[i]), right
            records.append(dict(zip(_COLUMNS, values, strict=True)))
        return records

    def to_csv(self, path: str | Path) -> Path:
        """Write the table of ``records`` as a CSV file, completely or not at all.

        Parameters
        ----------
        path : str or Path
            The file to write, in an existing folder; an existing file is replaced. A name that a
            spreadsheet would take for a formula has an apostrophe in front, and bytes of a name
            that are not UTF-8 are written as ``\\udc80`` to ``\\udcff``.

        Returns
        -------
        Path

        Raises
        ------
        OSError
            The file cannot be written.
        """
        with (
            atomic_file(path) as part,
            name_disk_errors(path),
            open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            rows = csv.writer(file)
            rows.writerow(_COLUMNS)
            for record in self.records():
                record["name"] = text_cell(record["name"])
                rows.writerow([_cell(value) for value in record.values()])
        return Path(path)

    def save(self, path: str | Path, *, title: str = "Comparison of two detectors") -> Path:
        """Write the images with differing verdicts as one self-contained HTML file.

        Each is shown as it is and under both heat maps, the strongest disagreement first. The
        colors of each detector's heat maps are those of its own reports.

        Parameters
        ----------
        path : str or Path
            The file to write, in an existing folder; an existing file is replaced.
        title : str, default="Comparison of two detectors"

        Returns
        -------
        Path

        Raises
        ------
        OSError
            The file cannot be written.
        ImportError
            jinja2 is not installed.
        """
        template = load_template("Comparison.save", "comparison.html")
        records = zip(self.order.tolist(), self.records(), strict=True)
        now = datetime.now().astimezone()
        page = render_comparison(
            template,
            title=title,
            created=now.strftime("%Y-%m-%d %H:%M"),
            detectors=self.detectors,
            counts=self.counts,
            pvalue=self.pvalue,
            n_images=len(self.names),
            n_differing=int(self.differs.sum()),
            n_left_out=int(self.differs.sum()) - len(self.views),
            images=[(record, self.views[i]) for i, record in records if i in self.views],
            has_truth=any(view.truth for view in self.views.values()),
            has_roi=any(any(view.regions) for view in self.views.values()),
        )
        with atomic_file(path) as part, name_disk_errors(path), open(part, "wb") as file:
            file.writelines(page)
        return Path(path)

    def __repr__(self):
        n_differing = int(self.differs.sum())
        return f"Comparison({n_differing} of {len(self.names)} verdicts differ)"

    def _repr_html_(self):
        """The strongest disagreements, in notebooks."""
        rows = []
        shown = [i for i in self.order.tolist() if i in self.views][:_N_SHOWN]
        for record, i in zip(self.records(), shown, strict=False):
            views = [html_image(view, "image/webp", record["name"]) for view in self.views[i][:3]]
            texts = [html_text(record[key]) for key in ("name", "label")]
            verdicts = [
                f"{record[f'verdict_{one}']} {record[f'relative_{one}']:+.3g}" for one in "ab"
            ]
            rows.append([*texts, *map(html_text, verdicts), *views])
        first, second = self.detectors
        headings = ["name", "label", first, second, "image", first, second]
        return html_table(repr(self), headings, rows)


def compare(
    first: Any,
    second: Any,
    X: Any,
    y: Any = None,
    *,
    names: Sequence[str] | None = None,
    detector_names: Sequence[str] = ("A", "B"),
    max_images: int = 200,
    batch_size: int = 16,
    verbose: int = 0,
) -> Comparison:
    """Compare the verdicts of two detectors on the same images.

    Parameters
    ----------
    first, second : fitted detectors, or a Pipeline, search or HeldOutThreshold around one
        They take images; called A and B in the result.
    X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        For a fair comparison, images that neither has been fitted on.
    y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W), or None, default=None
        Ground truth, if known: labels, +1 good and -1 defect; or masks, True on the defect.
    names : sequence of str or None, default=None
        Names of the images; None: folder and file name, or their places.
    detector_names : sequence of two str, default=("A", "B")
        What the detectors are called in messages and on the page.
    max_images : int, default=200
        Of so many images with differing verdicts, those that differ most, heat maps are kept.
    batch_size : int, default=16
        Number of images scored at a time.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        An image cannot be read or does not fit a detector; y or names do not fit X; or there are
        not two names of detectors.
    NotFittedError
        A detector is not fitted, or has no threshold.

    See Also
    --------
    skanomaly.report.write : A report on one detector.

    Notes
    -----
    Images whose verdicts differ are scored a second time, for their heat maps: the score maps of
    the others are not needed.

    McNemar's test counts the images on which one detector alone is right [1]_. It takes images that
    are independent, and says nothing of how often both are right.

    References
    ----------
    .. [1] McNemar, "Note on the sampling error of the difference between correlated proportions or
       percentages", Psychometrika 12 (1947).

    Examples
    --------
    >>> from skanomaly import FilterBank, PaDiM, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_inspection
    >>> from skanomaly.report import compare
    >>> data = make_inspection(10, 4, 4, size=64, random_state=0)
    >>> models = []
    >>> for detector in (PatchCore(random_state=0), PaDiM(random_state=0)):
    ...     features = FilterBank(image_size=64, random_state=0)
    ...     pipe = Pipeline([("features", features), ("detector", detector)])
    ...     models.append(pipe.fit(data.train.images))
    >>> found = compare(*models, data.test.images, data.test.target)
    >>> found.counts["defects"]["both_right"]
    4
    """
    detectors = tuple(map(str, detector_names))
    if isinstance(detector_names, str) or len(detectors) != 2:
        raise ValueError(f"expected names of two detectors, got {detector_names!r}")
    images = check_images(X)
    names, labels = titles(images, names), read_labels(y, len(images))
    models = [snapshot(one) for one in (first, second)]
    offsets = [image_threshold(one) for one in models]  # refused without one, before any scoring
    parts = []
    with tqdm(total=len(images), desc="images", disable=not verbose) as bar:
        for part in gen_batches(len(images), batch_size):
            batch = [images[i] for i in range(part.start, part.stop)]
            pairs = zip(models, detectors, strict=True)
            parts.append([_scores(one, batch, name) for one, name in pairs])
            bar.update(len(batch))
    decisions = np.concatenate(parts, axis=1).T - offsets
    scales = [_scale(*one) for one in zip(models, offsets, decisions.T, strict=True)]
    relative = decisions / scales
    found = Comparison(list(map(str, names)), detectors, decisions, relative, labels, {})
    shown = [i for i in found.order.tolist() if found.differs[i]][:max_images]
    if shown:
        chosen = [images[i] for i in shown]
        pairs = zip(models, decisions[shown].T, strict=True)
        heat_maps = [_heat_maps(one, chosen, some) for one, some in pairs]
        has_masks = y is not None and holds_masks(y)
        masks = [y[i] if has_masks else None for i in shown]
        views = _views(chosen, [found.names[i] for i in shown], masks, models, heat_maps)
        found.views.update(zip(shown, views, strict=True))
    return found


def _scores(model, images, name):
    """Scores (b,) of a few images; an error names the detector as well as the image."""
    try:
        return model.score_samples(images)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def _scale(model, offset, decisions):
    """The decision of a typical good image, by which those of a detector are divided."""
    held_out = outermost(model, "oof_scores_")
    good = decisions[decisions >= 0] if held_out is None else np.asarray(held_out) - offset
    typical = np.median(good) if len(good) else 0.0
    if typical > 0:
        return float(typical)
    return float(np.median(np.abs(decisions))) or 1.0  # a threshold above most good images


def _views(images, names, masks, models, heat_maps):
    """A View of each image."""
    for image, name, mask, *maps in zip(images, names, masks, *heat_maps, strict=True):
        rgb = to_rgb(read_image(image))
        truth = outline_of(mask, rgb, f"mask of {name}")
        rois = [regions_of_interest(model, [image])[0] for model in models]
        regions = tuple(outline_of(one, rgb, f"roi of {name}") for one in rois)
        plain = encode(shrink(rgb, _SIDE), "WEBP")
        views = [encode(under_heat_map(plain, one), "WEBP") for one in maps]
        yield View(plain, *views, rgb.shape[:2], truth, regions)


def _heat_maps(model, images, decisions):
    """PNG files with the heat maps of images, in the colors of the detector's reports."""
    limits = limits_of(model)
    vmin, vmax = limits.get("vmin"), limits.get("vmax")
    encoded, levels = [], []
    for _, _, _, maps in scores_and_maps_in_parts(model, images):
        for one in maps:
            small = shrink_map(one, _SIDE)
            encoded.append(encode_map(small, vmin, vmax))
            levels.append((np.max(one), *map_levels(small)[1:]))
    if not limits:
        vmin, vmax = limits_of_levels(levels, np.where(decisions < 0, -1, 1))
    return [one.colored(vmin, vmax) for one in encoded]


def _count(marks):
    """Rows (n, 2) of which both are True, the first alone, the second alone, and none."""
    first, second = marks.T
    groups = first & second, first & ~second, ~first & second, ~first & ~second
    return [int(group.sum()) for group in groups]


def _right(is_first, is_second):
    """Which of two detectors is right."""
    if is_first == is_second:
        return "both" if is_first else "neither"
    return "a" if is_first else "b"


def _cell(value):
    """A value as it stands in a CSV file."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else value
