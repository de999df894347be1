"""HTML reports of commands: one of all images, or one after the other, saved while they grow."""

import time

from skanomaly.cli._predictions import color_limits
from skanomaly.cli._printing import shorten
from skanomaly.images import titles
from skanomaly.utils.unwrapping import regions_of_interest

MAX_IMAGES = 500  # of a report of watch; the next ones go into another
SAVE_SECONDS = 60  # between saves of a report that grows


class HtmlResults:
    """An HTML report with the threshold and the colors of a detector."""

    def __init__(self, path, model, note, **options):
        from skanomaly.report import Report

        vmin, vmax = color_limits(model)
        threshold = float(model.map_offset_)
        self.report = Report(note=note, map_threshold=threshold, vmin=vmin, vmax=vmax, **options)
        self.path = path
        self.model = model
        self.not_read = []

    def __len__(self):
        return len(self.report)

    def add(self, predictions, labels=None, masks=None):
        """Add images, with their labels and masks where they are known."""
        names = titles([one.image for one in predictions], None)
        unknown = [None] * len(names)
        truths = zip(names, labels or unknown, masks or unknown, predictions, strict=True)
        for name, label, mask, one in truths:
            if one.error:
                self.not_read.append(name)
            else:
                self.add_image(one, name=name, label=label, mask=mask)

    def add_image(self, prediction, **options):
        """Add an image that was read, with options of ``Report.add``."""
        (roi,) = regions_of_interest(self.model, [prediction.image])
        self.report.add(
            prediction.image,
            prediction.score_map,
            prediction.decision,
            regions=prediction.regions,
            nearest_good=prediction.nearest_good,
            roi=roi,
            **options,
        )

    def finish(self):
        """Write the report."""
        if self.not_read:
            n = len(self.not_read)
            images = "1 image" if n == 1 else f"{n} images"
            self.report.note += f"; {images} could not be read: {shorten(self.not_read)}"
        self.report.save(self.path)


class RollingReports:
    """HTML reports on the images of each period: PERIOD.html, PERIOD-2.html, ...

    A report is a part of a period if there are many images, or if the process was started anew.

    Parameters
    ----------
    folder : Path
    model : HeldOutThreshold
    note : str
    wants_all : bool
        Whether good images are in them as well.
    """

    def __init__(self, folder, model, note, wants_all):
        self.folder = folder
        self.model = model
        self.note = note
        self.wants_all = wants_all
        self.period = None
        self._start(None)  # without jinja2: an error at once

    def add(self, period, name, path, prediction):
        """Add the image of a file; what was there of another period is saved."""
        if not self.wants_all and prediction.verdict != "defect":
            return
        if period != self.period or len(self.report) >= MAX_IMAGES:
            self.save()
            self.period = period
            self._start(self._free(period))
        self.report.add_image(prediction, name=name, file=path)

    def save_if_due(self):
        if time.monotonic() - self.saved[1] >= SAVE_SECONDS:
            self.save()

    def save(self):
        """Write the report, if there is anything new in it."""
        if len(self.report) > self.saved[0]:
            self.report.finish()
        self.saved = len(self.report), time.monotonic()

    def _start(self, path):
        self.report = HtmlResults(path, self.model, self.note)
        self.saved = 0, time.monotonic()  # images, and when

    def _free(self, period):
        """A path where there is no file yet."""
        path, n = self.folder / f"{period}.html", 1
        while path.exists():
            n += 1
            path = self.folder / f"{period}-{n}.html"
        return path
