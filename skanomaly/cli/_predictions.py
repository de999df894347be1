"""Predictions of a few images at a time: their score maps are never all in memory."""

from typing import NamedTuple

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.cli._printing import announce, progress
from skanomaly.exceptions import ImageError
from skanomaly.images import limits_of_good
from skanomaly.regions import map_regions
from skanomaly.utils.unwrapping import scores_and_maps_in_parts

CHUNK = 16  # images whose features are computed at a time


class Prediction(NamedTuple):
    """What a detector finds in an image."""

    image: str
    decision: float | None  # below 0: defect; None: the image cannot be read
    score_map: np.ndarray | None  # (H, W), high for a defect
    regions: list  # of dict, as from map_regions, above the detector's threshold on maps
    nearest_good: list  # of dict, as Report.add expects them; empty without an explainer
    error: str = ""  # why the image cannot be read

    @property
    def verdict(self):
        if self.error:
            return "error"
        return "defect" if self.decision < 0 else "good"


def predict(model, images, options, explainer=None, *, keeps_going=False):
    """Yield lists of a few Predictions; the features of each image are computed once.

    With an explainer, a :class:`skanomaly.report.Explainer`, defects have their nearest good
    patches. With `keeps_going`, an image that cannot be read is a Prediction with an error.
    """
    predict_some = predict_readable if keeps_going else _predict_chunk
    if len(images) > CHUNK:
        announce(options, f"predicting {len(images)} images")
    with progress(options, len(images), "images") as bar:
        for part in gen_batches(len(images), CHUNK):
            for predictions in predict_some(model, images[part], explainer):
                yield predictions
                bar.update(len(predictions))


def predict_readable(model, images, explainer=None):
    """As _predict_chunk; one by one where an image among them cannot be read, or is too large."""
    n_done = 0
    try:
        for predictions in _predict_chunk(model, images, explainer):
            n_done += len(predictions)
            yield predictions
    except (ImageError, MemoryError) as error:
        if len(images) == 1:
            reason = str(error) or "there is not enough memory for it"
            yield [Prediction(images[0], None, None, [], [], reason)]
            return
        for image in images[n_done:]:
            yield from predict_readable(model, [image], explainer)


def _predict_chunk(model, images, explainer):
    for part, features, scores, maps in scores_and_maps_in_parts(model, images):
        decisions = (scores - model.offset_).tolist()
        regions = [[] for _ in decisions]
        for region in map_regions(maps, model.map_offset_):
            regions[region.pop("image")].append(region)
        nearest_good = [[] for _ in decisions]
        if explainer is not None:
            defective = [i for i, decision in enumerate(decisions) if decision < 0]
            nearest_good = explainer.explain(features, defective)
        columns = zip(images[part], decisions, maps, regions, nearest_good, strict=True)
        yield [Prediction(*values) for values in columns]


def color_limits(model):
    """Scores of the first and the last color, the same for all images of a detector."""
    return limits_of_good(model.oof_map_maxima_, model.map_offset_)
