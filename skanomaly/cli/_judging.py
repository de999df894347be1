"""Pictures are judged a few at a time: their maps are never all in memory unless asked for."""

from typing import NamedTuple

import numpy as np

from skanomaly._heat_maps import limits_of_good
from skanomaly.cli._printing import progress
from skanomaly.regions import map_regions

CHUNK = 64  # pictures


class Judged(NamedTuple):
    """What a detector says of a picture."""

    image: str
    decision: float  # below 0: defect
    score_map: np.ndarray  # (H, W), high for a defect
    regions: list  # of dict, as map_regions answers them, above the map's threshold

    @property
    def verdict(self):
        return "defect" if self.decision < 0 else "good"


def judge(model, images, options):
    """Lists of a few Judged at a time; each picture is scored once."""
    with progress(options, len(images), "pictures") as bar:
        for first in range(0, len(images), CHUNK):
            part = images[first : first + CHUNK]
            scores, maps = model.score_samples_and_map(part)
            regions = [[] for _ in part]
            for region in map_regions(maps, model.map_offset_):
                regions[region.pop("image")].append(region)
            decisions = (scores - model.offset_).tolist()
            yield list(map(Judged, part, decisions, maps, regions))
            bar.update(len(part))


def colour_limits(model):
    """One colour scale for all pictures of a detector."""
    return limits_of_good(model.oof_map_maxima_, model.map_offset_)
