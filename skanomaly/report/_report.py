"""Report: pictures and verdicts, gathered one by one, saved as one HTML file."""

from datetime import datetime
from math import inf, isfinite
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from skanomaly._files import naming, whole_file
from skanomaly._heat_maps import (
    check_limits,
    check_map,
    limits_of_levels,
    map_levels,
    to_rgb,
)
from skanomaly._images import read_image
from skanomaly.report._page import load_template, render
from skanomaly.report._pictures import (
    Picture,
    encode,
    encode_crop,
    encode_map,
    shrunk,
    small_map,
)
from skanomaly.report._summary import summarise

_BOX = ("top", "left", "bottom", "right")
MOST_REGIONS = 50  # of one picture that are drawn and listed
_FORMATS = {"webp": "WEBP", "jpeg": "JPEG"}


class Report:
    """Pictures with their score maps and verdicts, as one HTML file for people.

    The file needs nothing beside it: no network, no other file, no program but a browser. It shows
    how many pictures are good and defective and how their scores lie; the pictures, to be sorted
    and filtered, each under its score map; and for each its regions, and the good patches nearest
    to its hot spots. What is added is encoded at once, and only the encoded bytes are kept.

    Parameters
    ----------
    title : str, default="Inspection report"
    note : str, default=""
        A line below the title: the line, the batch, the detector.
    map_threshold : float or None, default=None
        Threshold on score maps that the regions come from, to be named in the report.
    vmin, vmax : float or None, default=None
        Scores of the first and of the last colour of all maps. None: from the maps added, so that
        good pictures stay dark.
    full_size, thumb_size, map_size, crop_size : int, default=640, 160, 160, 240
        Pixels of the longer side, at most, of pictures in full view, of those in the overview, of
        score maps and of the pieces around hot spots. Smaller ones are kept as they are.
    max_megabytes : float or None, default=60
        Size of the file, about. Where all pictures in full view are too large for it, the largest
        are compressed harder and made smaller, as far as 64 pixels. None: no limit.
    image_format : {"webp", "jpeg"}, default="webp"
        jpeg is encoded five times as fast, and takes a third more room or, of smooth
        pictures, more than twice as much.
    context : float, default=3
        How much is shown around a hot spot's patch on each side, in multiples of its longer one.

    Raises
    ------
    ImportError
        jinja2 is not there.
    ValueError
        A parameter is out of its range.

    See Also
    --------
    skanomaly.report.write : Score images and save their report.

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
        title="Inspection report",
        note="",
        map_threshold=None,
        vmin=None,
        vmax=None,
        full_size=640,
        thumb_size=160,
        map_size=160,
        crop_size=240,
        max_megabytes=60,
        image_format="webp",
        context=3,
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
        self.context = context
        self._pictures = []

    def __len__(self):
        return len(self._pictures)

    def add(self, image, score_map, decision, *, name, label=None, regions=(), neighbours=()):
        """Add one picture.

        Parameters
        ----------
        image : path, PIL image or array of shape (H, W[, C])
            What the detector was given.
        score_map : array of shape (H, W)
            The higher, the more abnormal.
        decision : float
            From ``decision_function``: below 0 the verdict is defect.
        name : str
            Need not be the only one of its kind.
        label : {1, -1} or None, default=None
            The truth, where it is known: +1 good, -1 defect.
        regions : sequence of dict, default=()
            As :func:`skanomaly.map_regions` answers them about this picture, from the highest peak
            down; of more than 50 the report says how many.
        neighbours : sequence of dict, default=()
            As :func:`skanomaly.nearest_good` answers them about this picture, each with two more
            entries: ``"good"``, the good image (path, array or PIL image) that its ``good_image``
            stands for, and ``"good_name"``, what to call it. Both pieces are cut here.

        Raises
        ------
        ValueError
            The image cannot be read, the map's shape is another, a number is not finite, the
            label is neither 1 nor -1, or a box lies outside of its picture.
        """
        rgb = to_rgb(read_image(image, name))
        check_map(rgb, score_map, f"score_map of {name}")
        _check_decision(decision, name)
        if label is not None and label not in (-1, 1):
            raise ValueError(
                f"{name}: expected the label 1 (good), -1 (defect) or None, got {label!r}"
            )
        regions, spots = list(regions), list(neighbours)
        for record in (*regions, *spots):
            _check_box(rgb, [record[side] for side in _BOX], name)
        small = small_map(score_map, self.sizes["map_size"])
        full = shrunk(rgb, self.sizes["full_size"])
        thumb = shrunk(full, self.sizes["thumb_size"])
        code = _FORMATS[self.image_format]
        self._pictures.append(
            Picture(
                name=str(name),
                decision=float(decision),
                label=None if label is None else int(label),
                frame=rgb.shape[:2],
                thumb=encode(thumb, code),
                full=encode(full, code),
                heat=encode_map(small, self.vmin, self.vmax),
                levels=self._levels(score_map, small),
                regions=[_region(record) for record in regions[:MOST_REGIONS]],
                n_regions=len(regions),
                spots=[self._spot(rgb, record) for record in spots],
            )
        )

    def save(self, path):
        """Write the file, whole or not at all.

        Parameters
        ----------
        path : str or Path
            A file that is there already is replaced; its folder exists.

        Returns
        -------
        Path

        Raises
        ------
        OSError
            The folder is missing or read-only, or the disk is full; the message names the path.
            No half file is left, and a file that was there before is as it was.
        """
        summary = summarise(self._pictures)
        now = datetime.now().astimezone()
        page = render(
            self._template,
            pictures=self._pictures,
            limits=self._limits(),
            image_format=_FORMATS[self.image_format],
            max_bytes=inf if self.max_megabytes is None else 1e6 * self.max_megabytes,
            title=str(self.title),
            note=str(self.note),
            made=now.strftime("%Y-%m-%d %H:%M"),
            map_threshold=self.map_threshold,
            summary=summary,
        )
        with whole_file(path) as unfinished, naming(path), open(unfinished, "wb") as file:
            file.writelines(page)
        return Path(path)

    def _levels(self, score_map, small):
        """What the limits need to know of a map; None where both are given."""
        if self.vmin is not None and self.vmax is not None:
            return None
        return np.max(score_map), *map_levels(small)[1:]  # a small map's peak is not the map's

    def _limits(self):
        """Scores of the first and the last colour."""
        if not self._pictures or (self.vmin is not None and self.vmax is not None):
            return self.vmin, self.vmax
        verdicts = [-1 if picture.decision < 0 else 1 for picture in self._pictures]
        vmin, vmax = limits_of_levels([picture.levels for picture in self._pictures], verdicts)
        # One given may lie on the far side of what the maps say of the other.
        if self.vmin is not None:
            return self.vmin, vmax if vmax > self.vmin else self.vmin + 1
        if self.vmax is not None:
            return vmin if vmin < self.vmax else self.vmax - 1, self.vmax
        return vmin, vmax

    def _spot(self, rgb, record):
        """A hot spot beside the nearest good patch."""
        good_rgb = to_rgb(read_image(record["good"], str(record["good_name"])))
        good_box = [record[f"good_{side}"] for side in _BOX]
        _check_box(good_rgb, good_box, record["good_name"])
        how = self.context, self.sizes["crop_size"], _FORMATS[self.image_format]
        return {
            "peak": float(record["peak"]),
            "distance": float(record["distance"]),
            "name": str(record["good_name"]),
            "here": encode_crop(rgb, [record[side] for side in _BOX], *how),
            "good": encode_crop(good_rgb, good_box, *how),
        }


def _check_decision(decision, name):
    """A decision is a number."""
    if not isinstance(decision, Real) or not isfinite(decision):
        raise ValueError(
            f"{name}: expected a finite number as decision_function answers it, got {decision!r}"
        )


def _region(record):
    """What the page shows of a region."""
    return {
        "box": [int(record[side]) for side in _BOX],
        "area": int(record["area"]),
        "peak": float(record["peak"]),
    }


def _check_box(rgb, box, name):
    """A box lies within its picture."""
    (height, width), (top, left, bottom, right) = rgb.shape[:2], box
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ValueError(
            f"{name}: expected a box (top, left, bottom, right) within {height} x {width} pixels, "
            f"got {tuple(int(n) for n in box)}; regions and spots must be those of this picture, "
            "and the good images those that the estimator was fitted on, in the same order"
        )
