"""Report: images and verdicts, added one by one and saved as one HTML file."""

import os
from collections.abc import Sequence
from datetime import datetime
from math import inf, isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from skanomaly.images import (
    check_limits,
    check_map,
    is_url,
    limits_of_levels,
    map_levels,
    path_of,
    read_image,
    to_rgb,
)
from skanomaly.io import atomic_file, name_disk_errors
from skanomaly.report._images import (
    ImageRecord,
    Spool,
    encode,
    encode_crop,
    encode_map,
    shrink,
    shrink_map,
    under_heat_map,
)
from skanomaly.report._outlines import outline_of
from skanomaly.report._page import load_template, render
from skanomaly.report._summary import summarize
from skanomaly.utils.notebooks import html_image, html_table, html_text

_BOX = ("top", "left", "bottom", "right")
N_SHOWN = 5  # images, the most anomalous ones, in notebooks
MAX_REGIONS = 50  # of one image that are drawn and listed
_FORMATS = {"webp": "WEBP", "jpeg": "JPEG"}
_FIRST = {"score": "score", "mistakes": "mistake"}  # names of orders in the page


class Report:
    """Images with their score maps and verdicts, as one HTML file.

    The file is self-contained: a browser opens it without a network connection or other files. It
    shows the numbers of good and defective images and a histogram of their scores; the images under
    their heat maps, which can be sorted and filtered; and for each image its regions and the good
    patches nearest to its hot spots. Images are encoded when they are added; of the encoded bytes
    the small ones are kept in memory, the full views in a temporary file once they are many.

    Parameters
    ----------
    title : str, default="Inspection report"
        Title of the page.
    note : str, default=""
        A line below the title, such as the batch or the detector.
    map_threshold : float or None, default=None
        Threshold on score maps that the regions come from, stated in the report.
    vmin, vmax : float or None, default=None
        Scores of the first and of the last color of all heat maps. None: computed from the maps
        added, so that good images stay dark.
    full_size, thumb_size, map_size, crop_size : int, default=640, 160, 160, 240
        Maximum length in pixels of the longer side of full views, of thumbnails, of heat maps and
        of the crops around hot spots. Smaller images are not enlarged.
    max_megabytes : float or None, default=60
        Approximate limit of the file's size. If the full views exceed it, the largest are
        compressed more and reduced in size, to no less than 64 pixels. None: no limit.
    image_format : {"webp", "jpeg"}, default="webp"
        "jpeg" is encoded five times as fast, and takes a third more space or, for smooth images,
        more than twice as much.
    first : {"score", "mistakes"}, default="score"
        Which images come first until a reader sorts them: those with the lowest scores, or, for
        labeled images, missed defects and then false alarms.
    context : float, default=3
        Width of the surroundings shown on each side of a hot spot's patch, in multiples of its
        longer side.
    review : bool, default=True
        Whether a reader can correct verdicts and save them as a file for ``skanomaly update`` and
        ``skanomaly evaluate``. The absolute paths of the image files are then in the page.

    Raises
    ------
    ImportError
        jinja2 is not installed.
    ValueError
        A parameter is out of its range.

    See Also
    --------
    skanomaly.report.write : Score images and save a report on them.
    skanomaly.report.Explainer : The good patches nearest to the hot spots of images.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skanomaly.report import Report
    >>> image, scores = np.zeros((20, 30), np.uint8), np.eye(20, 30)
    >>> report = Report(title="Line 3", map_threshold=0.5)
    >>> report.add(image, scores, -0.3, name="part 17")
    >>> with TemporaryDirectory() as folder:
    ...     path = report.save(Path(folder) / "line3.html")
    ...     "Line 3" in path.read_text(encoding="utf-8")
    True
    """

    def __init__(
        self,
        *,
        title: str = "Inspection report",
        note: str = "",
        map_threshold: float | None = None,
        vmin: float | None = None,
        vmax: float | None = None,
        full_size: int = 640,
        thumb_size: int = 160,
        map_size: int = 160,
        crop_size: int = 240,
        max_megabytes: float | None = 60,
        image_format: str = "webp",
        first: str = "score",
        context: float = 3,
        review: bool = True,
    ):
        self._template = load_template("skanomaly.report.Report")
        sizes = {
            "full_size": full_size,
            "thumb_size": thumb_size,
            "map_size": map_size,
            "crop_size": crop_size,
        }
        for name, size in sizes.items():
            if not isinstance(size, Integral) or size < 8:
                raise ValueError(f"{name} must be an integer of at least 8 pixels, got {size!r}")
        if image_format not in _FORMATS:
            raise ValueError(f"image_format must be 'webp' or 'jpeg', got {image_format!r}")
        if first not in _FIRST:
            raise ValueError(f"first must be 'score' or 'mistakes', got {first!r}")
        if max_megabytes is not None and not max_megabytes > 0:
            raise ValueError(f"max_megabytes must be above 0 or None, got {max_megabytes!r}")
        if map_threshold is not None and not isinstance(map_threshold, Real):
            raise ValueError(f"map_threshold must be a number or None, got {map_threshold!r}")
        if vmin is not None and vmax is not None:
            check_limits(vmin, vmax)
        if not context >= 0:
            raise ValueError(f"context must be at least 0, got {context!r}")
        self.title = title
        self.note = note
        self.map_threshold = map_threshold
        self.vmin = vmin
        self.vmax = vmax
        self.sizes = sizes
        self.max_megabytes = max_megabytes
        self.image_format = image_format
        self.first = first
        self.context = context
        self.review = review
        self._records: list = []
        self._spool = Spool()

    def __len__(self):
        return len(self._records)

    def __repr__(self):
        n_defects = sum(record.decision < 0 for record in self._records)
        return f"Report({self.title!r}: {len(self)} images, {n_defects} predicted as defective)"

    def _repr_html_(self):
        """The most anomalous images under their heat maps, in notebooks."""
        limits, mime = self._limits(), f"image/{self.image_format}"
        rows = []
        for record in sorted(self._records, key=lambda one: one.decision)[:N_SHOWN]:
            heat_map = under_heat_map(record.thumb, record.heat_map.colored(*limits))
            views = record.thumb, encode(heat_map, _FORMATS[self.image_format])
            verdict = "defect" if record.decision < 0 else "good"
            texts = record.name, f"{record.decision:.4g}", verdict
            images = [html_image(view, mime, record.name) for view in views]
            rows.append([*map(html_text, texts), *images])
        return html_table(repr(self), ["name", "score", "verdict", "image", "heat map"], rows)

    def add(
        self,
        image: Any,
        score_map: Any,
        decision: float,
        *,
        name: str,
        label: int | None = None,
        regions: Sequence[dict] = (),
        nearest_good: Sequence[dict] = (),
        mask: Any = None,
        roi: Any = None,
        file: str | Path | None = None,
    ) -> None:
        """Add one image.

        Parameters
        ----------
        image : path, PIL image or array of shape (H, W[, C])
            The image that was scored.
        score_map : array of shape (H, W)
            The higher, the more abnormal.
        decision : float
            From ``decision_function``: below 0 for a defect.
        name : str
            Name of the image in the report; it need not be unique.
        label : {1, -1} or None, default=None
            Ground truth, if known: +1 good, -1 defect.
        regions : sequence of dict, default=()
            Regions of this image as :func:`skanomaly.map_regions` returns them, from the highest
            peak to the lowest. At most 50 are shown, and the number of the others is stated.
        nearest_good : sequence of dict, default=()
            Hot spots of this image as :func:`skanomaly.nearest_good` returns them, each with two
            more entries: ``"good"``, the good image (path, array or PIL image) at the place
            ``good_image``, and ``"good_name"``, its name in the report.
            :class:`skanomaly.report.Explainer` returns such records. The crops are made here.
        mask : array of shape (H, W) or None, default=None
            Ground truth by pixel, nonzero on the defect, drawn as an outline.
        roi : array of shape (H, W) or None, default=None
            Region of interest, nonzero where patches count, drawn as a dashed outline.
        file : str, Path or None, default=None
            The image file that a review names. None: `image`, if it is a path; of other images
            verdicts cannot be corrected.

        Raises
        ------
        ValueError
            The image cannot be read, the map or a mask has another shape than the image, a number
            is not finite, the label is neither 1 nor -1, or a box exceeds its image.
        """
        rgb = to_rgb(read_image(image, name))
        check_map(rgb, score_map, f"score_map of {name}")
        _check_decision(decision, name)
        if label is not None and label not in (-1, 1):
            raise ValueError(
                f"{name}: expected the label 1 (good), -1 (defect) or None, got {label!r}"
            )
        regions, spots = list(regions), list(nearest_good)
        for record in (*regions, *spots):
            _check_box(rgb, [record[side] for side in _BOX], name)
        small = shrink_map(score_map, self.sizes["map_size"])
        full = shrink(rgb, self.sizes["full_size"])
        thumb = shrink(full, self.sizes["thumb_size"])
        code = _FORMATS[self.image_format]
        self._records.append(
            ImageRecord(
                name=str(name),
                decision=float(decision),
                label=None if label is None else int(label),
                shape=rgb.shape[:2],
                thumb=encode(thumb, code),
                full=self._spool.add(encode(full, code)),
                heat_map=encode_map(small, self.vmin, self.vmax),
                levels=self._levels(score_map, small),
                regions=[_region(record) for record in regions[:MAX_REGIONS]],
                n_regions=len(regions),
                spots=[self._spot(rgb, record) for record in spots],
                truth=outline_of(mask, rgb, f"mask of {name}"),
                roi=outline_of(roi, rgb, f"region of interest of {name}"),
                file=self._file(image if file is None else file),
            )
        )

    def save(self, path: str | Path) -> Path:
        """Write the file, completely or not at all.

        Parameters
        ----------
        path : str or Path
            The file to write, in an existing folder; an existing file is replaced.

        Returns
        -------
        Path

        Raises
        ------
        OSError
            The folder is missing or read-only, or the disk is full; the message names the path.
            No partial file is left, and an existing file is unchanged.
        """
        summary = summarize(self._records)
        now = datetime.now().astimezone()
        page = render(
            self._template,
            records=self._records,
            spool=self._spool,
            limits=self._limits(),
            image_format=_FORMATS[self.image_format],
            first=_FIRST[self.first],
            max_bytes=inf if self.max_megabytes is None else 1e6 * self.max_megabytes,
            title=str(self.title),
            note=str(self.note),
            created=now.strftime("%Y-%m-%d %H:%M"),
            map_threshold=self.map_threshold,
            summary=summary,
        )
        with atomic_file(path) as part, name_disk_errors(path), open(part, "wb") as file:
            file.writelines(page)
        return Path(path)

    def _file(self, image):
        """What a review calls an image: an absolute path, as a browser saves files elsewhere."""
        path = path_of(image) if self.review else None
        return None if path is None or is_url(path) else os.path.abspath(path)

    def _levels(self, score_map, small):
        """What the limits of the colors depend on; None if both limits are given."""
        if self.vmin is not None and self.vmax is not None:
            return None
        return np.max(score_map), *map_levels(small)[1:]  # shrinking lowers the peak

    def _limits(self):
        """Scores of the first and the last color."""
        if not self._records or (self.vmin is not None and self.vmax is not None):
            return self.vmin, self.vmax
        verdicts = [-1 if record.decision < 0 else 1 for record in self._records]
        vmin, vmax = limits_of_levels([record.levels for record in self._records], verdicts)
        # A limit that is given may lie beyond the other one that the maps suggest.
        if self.vmin is not None:
            return self.vmin, vmax if vmax > self.vmin else self.vmin + 1
        if self.vmax is not None:
            return vmin if vmin < self.vmax else self.vmax - 1, self.vmax
        return vmin, vmax

    def _spot(self, rgb, record):
        """A hot spot and the nearest good patch, as crops."""
        good_rgb = to_rgb(read_image(record["good"], str(record["good_name"])))
        good_box = [record[f"good_{side}"] for side in _BOX]
        _check_box(good_rgb, good_box, record["good_name"])
        options = self.context, self.sizes["crop_size"], _FORMATS[self.image_format]
        return {
            "peak": float(record["peak"]),
            "distance": float(record["distance"]),
            "name": str(record["good_name"]),
            "here": encode_crop(rgb, [record[side] for side in _BOX], *options),
            "good": encode_crop(good_rgb, good_box, *options),
        }


def _check_decision(decision, name):
    """Raise ValueError unless a decision is a finite number."""
    if not isinstance(decision, Real) or not isfinite(decision):
        raise ValueError(
            f"{name}: expected a finite number as from decision_function, got {decision!r}"
        )


def _region(record):
    """The entries of a region that the page shows."""
    return {
        "box": [int(record[side]) for side in _BOX],
        "area": int(record["area"]),
        "peak": float(record["peak"]),
    }


def _check_box(rgb, box, name):
    """Raise ValueError unless a box lies within its image."""
    (height, width), (top, left, bottom, right) = rgb.shape[:2], box
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ValueError(
            f"{name}: expected a box (top, left, bottom, right) within {height} x {width} pixels, "
            f"got {tuple(int(n) for n in box)}; pass the regions and hot spots of this image, and "
            "as good images the X of the estimator's fit, in the same order"
        )
