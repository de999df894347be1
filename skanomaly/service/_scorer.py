"""One detector that all requests share: images in, records and heat maps out."""

import base64
import io
import threading

from PIL import Image

import skanomaly
from skanomaly.exceptions import ImageError
from skanomaly.images import limits_of_good, overlay, read_image, to_rgb
from skanomaly.regions import map_regions
from skanomaly.utils.state import snapshot
from skanomaly.utils.unwrapping import scores_and_maps


class Scorer:
    """A detector, what it has scored so far, and the monitor of its scores."""

    def __init__(self, detector, monitor, name):
        self.detector = detector
        self.monitor = monitor
        self.name = name
        self.n_images = self.n_errors = 0
        self._lock = threading.Lock()  # held to count, never while anything is computed

    def score(self, content, name, wants_map):
        """The record of an image file's content, with an entry "map_png" (base64) if wanted.

        ImageError if the content is no image, or not one that the detector takes.
        """
        record, score = self._judge(content, name, wants_map)
        if wants_map:
            record["map_png"] = base64.b64encode(record["map_png"]).decode()
        with self._lock:
            self.n_images += 1
            if self.monitor is not None:
                is_alarm = self.monitor.update([score])
                record["drift"] = self.monitor.alarms_[-1][1] if is_alarm else None
        return record

    def draw(self, content, name):
        """The heat map of an image file's content over the image, as PNG; not counted."""
        return self._judge(content, name, True)[0]["map_png"]

    def count_error(self):
        with self._lock:
            self.n_errors += 1

    def health(self):
        """What has been scored, and whether the scores have drifted."""
        with self._lock:
            record = {
                "status": "ok",
                "detector": self.name,
                "version": skanomaly.__version__,
                "n_images": self.n_images,
                "n_errors": self.n_errors,
            }
            if self.monitor is not None:
                record["drift"] = self._describe_drift()
        return record

    def _judge(self, content, name, wants_map):
        detector = snapshot(self.detector)  # for scores and thresholds of one fit
        title = name or "the upload"
        image = read_image(content, title)
        try:
            scores, maps = scores_and_maps(detector, [image])
        except ImageError as error:  # of an image without a name, such as one with other channels
            raise ImageError(f"{title}: {str(error).removeprefix('image 0: ')}") from error
        decision = float(scores[0] - detector.offset_)
        regions = map_regions(maps, detector.map_offset_)
        for region in regions:
            del region["image"]
        record = {
            "name": name,
            "score": decision,
            "verdict": "defect" if decision < 0 else "good",
            "regions": regions,
        }
        if wants_map:
            record["map_png"] = _draw(detector, image, maps[0])
        return record, float(scores[0])

    def _describe_drift(self):
        alarms = self.monitor.alarms_
        last = None if not alarms else dict(zip(("image", "direction"), alarms[-1], strict=True))
        return {
            "n_alarms": len(alarms),
            "last_alarm": last,
            "statistic": self.monitor.statistic_.tolist(),
            "limit": self.monitor.limit_,
        }


def _draw(detector, image, score_map):
    """PNG of an image under its heat map, with the colors that a detector's maps always have."""
    vmin, vmax = limits_of_good(detector.oof_map_maxima_, detector.map_offset_)
    file = io.BytesIO()
    heat = overlay(to_rgb(image), score_map, vmin, vmax)
    Image.fromarray(heat).save(file, format="PNG", compress_level=1)
    return file.getvalue()
