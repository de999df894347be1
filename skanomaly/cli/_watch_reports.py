"""The reports of watch: one after the other, each saved while it grows."""

import time

from skanomaly.cli._predictions import color_limits

MAX_IMAGES = 500  # of a report; the next ones go into another
SAVE_SECONDS = 60  # between saves of a report that grows


class Reports:
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
        self.wants_all = wants_all
        vmin, vmax = color_limits(model)
        threshold = float(model.map_offset_)
        self.options = {"note": note, "map_threshold": threshold, "vmin": vmin, "vmax": vmax}
        self.report = self._new()  # without jinja2: an error at once
        self.path = self.period = None
        self.saved = 0, time.monotonic()  # images, and when

    def add(self, period, name, prediction):
        """Add an image; what was there of another period is saved."""
        if not self.wants_all and prediction.verdict != "defect":
            return
        if period != self.period or len(self.report) >= MAX_IMAGES:
            self.save()
            self.report, self.period, self.path = self._new(), period, self._free(period)
            self.saved = 0, time.monotonic()
        self.report.add(
            prediction.image,
            prediction.score_map,
            prediction.decision,
            name=name,
            regions=prediction.regions,
        )

    def save_if_due(self):
        if time.monotonic() - self.saved[1] >= SAVE_SECONDS:
            self.save()

    def save(self):
        """Write the report, if there is anything new in it."""
        if len(self.report) > self.saved[0]:
            self.report.save(self.path)
        self.saved = len(self.report), time.monotonic()

    def _new(self):
        from skanomaly.report import Report

        return Report(**self.options)

    def _free(self, period):
        """A path where there is no file yet."""
        path, n = self.folder / f"{period}.html", 1
        while path.exists():
            n += 1
            path = self.folder / f"{period}-{n}.html"
        return path
