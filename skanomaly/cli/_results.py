"""The outputs of inspect: a folder with scores and heat maps, an HTML report, JSON."""

import csv
from collections import Counter
from pathlib import Path

from skanomaly.cli._model_files import fingerprint, load_data
from skanomaly.cli._predictions import color_limits
from skanomaly.cli._printing import print_json
from skanomaly.images import save_score_map, titles
from skanomaly.utils.unwrapping import check_nearest_good, outermost

SCORES_FILE = "scores.csv"
N_PEAKS = 3  # hot spots per image that a report explains, at most


class FolderResults:
    """scores.csv, and a heat map of each image."""

    def __init__(self, folder, model, images, *, has_maps):
        self.folder = folder
        self.limits = dict(zip(("vmin", "vmax"), color_limits(model), strict=True))
        self.names = iter(_heat_map_names(images) if has_maps else [""] * len(images))
        self.rows = []

    def add(self, predictions):
        for one in predictions:
            heat_map = next(self.names)
            if heat_map:
                save_score_map(self.folder / heat_map, one.image, one.score_map, **self.limits)
            self.rows.append([one.image, f"{one.decision:.6g}", one.verdict, heat_map])

    def finish(self):
        with open(self.folder / SCORES_FILE, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["name", "score", "verdict", "heat_map"], *self.rows])


class HtmlResults:
    """An HTML report."""

    def __init__(self, path, model, note):
        from skanomaly.report import Report

        vmin, vmax = color_limits(model)
        threshold = float(model.map_offset_)
        self.report = Report(note=note, map_threshold=threshold, vmin=vmin, vmax=vmax)
        self.path = path

    def add(self, predictions):
        names = titles([one.image for one in predictions], None)
        for name, one in zip(names, predictions, strict=True):
            self.report.add(
                one.image,
                one.score_map,
                one.decision,
                name=name,
                regions=one.regions,
                nearest_good=one.nearest_good,
            )

    def finish(self):
        self.report.save(self.path)


class JsonResults:
    """A list of records on stdout."""

    def __init__(self):
        self.records = []

    def add(self, predictions):
        self.records += [
            {
                "name": one.image,
                "score": one.decision,
                "verdict": one.verdict,
                "regions": one.regions,
            }
            for one in predictions
        ]

    def finish(self):
        """Do nothing: records are printed by `print`, when all files are in place."""

    def print(self):
        print_json(self.records)


def make_explainer(model, folder):
    """The explainer of a report, with the good images that the detector was fitted on."""
    from skanomaly.report import Explainer

    try:
        check_nearest_good(model)
    except TypeError as error:
        raise ValueError(f"--good: {error}; leave --good out") from error
    images, n_fitted = load_data(folder).train.images, len(outermost(model, "memory_frames_"))
    seen = getattr(model, "seen_images_", None)
    n_seen = len(images) if seen is None else sum(fingerprint(image) in seen for image in images)
    if len(images) != n_fitted or n_seen < n_fitted:
        raise ValueError(
            f"--good {folder}: expected the {n_fitted} images that the detector was fitted on, got "
            f"{len(images)} good ones, of which it has seen {n_seen}; pass the folder that was "
            "passed to fit or tune"
        )
    return Explainer(model, images, n_peaks=N_PEAKS)


def _heat_map_names(images):
    """File names of heat maps, with the folder or a number where images have the same name."""
    paths = list(map(Path, images))
    n_alike = Counter(path.stem for path in paths)
    names = {}
    for path in paths:
        stem = f"{path.parent.name}_{path.stem}" if n_alike[path.stem] > 1 else path.stem
        name, number = f"{stem}.png", 1
        while name in names:
            number += 1
            name = f"{stem}-{number}.png"
        names[name] = path
    return list(names)
